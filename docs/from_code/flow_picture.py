"""The picture of the flow, docs/img/flow.svg: `python -m docs.from_code.flow_picture` draws it anew."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

PICTURE = Path(__file__).parents[1] / "img" / "flow.svg"
_WIDTH, _HEIGHT = 940, 400
_OURS, _THEIRS, _EDGE, _TEXT = "#e8eaf6", "#f5f5f5", "#5c6bc0", "#212121"
_LINE = 15


@dataclass(frozen=True, slots=True)
class Box:
    """A part of the program or of the site; the first line of ``text`` is its name."""

    x: int
    y: int
    width: int
    height: int
    text: str
    is_ours: bool = True

    def drawn(self) -> Iterator[str]:
        """As SVG."""
        fill = _OURS if self.is_ours else _THEIRS
        yield (
            f'<rect x="{self.x}" y="{self.y}" width="{self.width}" height="{self.height}" rx="6" '
            f'fill="{fill}" stroke="{_EDGE}"/>'
        )
        name, *lines = self.text.split("\n")
        top = self.y + self.height / 2 - len(lines) * _LINE / 2 + 4
        for number, line in enumerate([name, *lines]):
            weight = ' font-weight="bold"' if not number else ""
            at = f'x="{self.x + self.width / 2:g}" y="{top + number * _LINE:g}"'
            yield f'<text {at} text-anchor="middle"{weight}>{escape(line)}</text>'


@dataclass(frozen=True, slots=True)
class Arrow:
    """From one point to another, by way of corners; ``note`` stands at ``note_at``."""

    points: tuple[tuple[int, int], ...]
    note: str = ""
    note_at: tuple[int, int] = (0, 0)
    is_dashed: bool = False

    def drawn(self) -> Iterator[str]:
        """As SVG."""
        path = " ".join(f"{'L' if number else 'M'}{x} {y}" for number, (x, y) in enumerate(self.points))
        dashes = ' stroke-dasharray="5 4"' if self.is_dashed else ""
        yield f'<path d="{path}" fill="none" stroke="{_EDGE}" stroke-width="1.5"{dashes} marker-end="url(#head)"/>'
        if self.note:
            x, y = self.note_at
            yield f'<text x="{x}" y="{y}" text-anchor="middle" font-style="italic">{escape(self.note)}</text>'


_STAGES = (
    "job\ndecode, claim",
    "taste profile\nlikes, events, wish",
    "candidates\ncontent, together,\nartist, popular",
    "ranking\ndiversity,\ndiscoveries",
    "LLM\none call: order\nand reasons",
    "result\nsave, then ack",
)
_STAGE_WIDTH, _STAGE_GAP, _STAGE_Y, _STAGE_HEIGHT = 118, 20, 160, 70
_STAGE_X = tuple(66 + number * (_STAGE_WIDTH + _STAGE_GAP) for number in range(len(_STAGES)))
_MIDDLES = tuple(x + _STAGE_WIDTH // 2 for x in _STAGE_X)
_TOP, _BOTTOM = _STAGE_Y, _STAGE_Y + _STAGE_HEIGHT

BOXES = (
    Box(_MIDDLES[0] - 55, 20, 110, 50, "RabbitMQ\njobs, events", is_ours=False),
    Box(_MIDDLES[3] - 55 - 69, 20, 110, 50, "backend\nand its pages", is_ours=False),
    Box(_MIDDLES[5] - 55, 20, 110, 50, "Redis\nresults, leases", is_ours=False),
    *(Box(x, _STAGE_Y, _STAGE_WIDTH, _STAGE_HEIGHT, text) for x, text in zip(_STAGE_X, _STAGES, strict=True)),
    Box(_MIDDLES[0] - 64, 320, 128, 50, "RabbitMQ\nretries, dead letters", is_ours=False),
    Box(_MIDDLES[1] - 55, 320, 110, 50, "MySQL\nlikes, songs", is_ours=False),
    Box(_MIDDLES[2] - 55, 320, 110, 50, "index\nin memory"),
    Box(_MIDDLES[4] - 55, 320, 110, 50, "LLM server\nOpenAI's protocol", is_ours=False),
)
ARROWS = (
    Arrow(((_MIDDLES[3] - 124, 45), (_MIDDLES[0] + 57, 45)), "publishes a job", (_MIDDLES[1] + 46, 38)),
    Arrow(((_MIDDLES[5] - 55, 45), (_MIDDLES[3] - 12, 45)), "reads the result", (_MIDDLES[4] - 34, 38)),
    Arrow(((_MIDDLES[0], 70), (_MIDDLES[0], _TOP - 2)), "delivery", (_MIDDLES[0] + 30, 100)),
    *(
        Arrow(((x + _STAGE_WIDTH, _STAGE_Y + 35), (x + _STAGE_WIDTH + _STAGE_GAP - 2, _STAGE_Y + 35)))
        for x in _STAGE_X[:-1]
    ),
    Arrow(((_MIDDLES[5], _TOP), (_MIDDLES[5], 72)), "result, status", (_MIDDLES[5] - 42, 100)),
    Arrow(((_MIDDLES[0], _BOTTOM), (_MIDDLES[0], 318)), "failed", (_MIDDLES[0] + 24, 290), is_dashed=True),
    Arrow(((_MIDDLES[1], 320), (_MIDDLES[1], _BOTTOM + 2))),
    Arrow(((_MIDDLES[2], 320), (_MIDDLES[2], _BOTTOM + 2))),
    Arrow(((_MIDDLES[1] + 57, 345), (_MIDDLES[2] - 57, 345))),
    Arrow(((_MIDDLES[4], _BOTTOM), (_MIDDLES[4], 318)), "100 songs", (_MIDDLES[4] - 34, 290)),
    Arrow(((_MIDDLES[4] + 14, 320), (_MIDDLES[4] + 14, _BOTTOM + 2)), "20 of them", (_MIDDLES[4] + 50, 290)),
    Arrow(
        ((_MIDDLES[3], _BOTTOM), (_MIDDLES[3], 265), (_MIDDLES[5], 265), (_MIDDLES[5], _BOTTOM + 2)),
        "without an LLM: degraded",
        (_MIDDLES[3] - 20, 281),
        is_dashed=True,
    ),
    Arrow(
        ((_STAGE_X[5] + 14, _TOP), (_STAGE_X[5] + 14, 128), (_MIDDLES[0] - 30, 128), (_MIDDLES[0] - 30, 72)),
        "ack",
        (500, 122),
    ),
)


def picture() -> str:
    """The whole picture, on a ground of its own, for pages that are light and for those that are dark."""
    worker = (
        f'<rect x="46" y="140" width="{_WIDTH - 66}" height="112" rx="10" fill="none" stroke="{_EDGE}" '
        'stroke-dasharray="2 3"/>'
    )
    head = (
        '<marker id="head" markerWidth="8" markerHeight="8" refX="6" refY="3" orient="auto">'
        f'<path d="M0 0L6 3L0 6z" fill="{_EDGE}"/></marker>'
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
            f'font-family="sans-serif" font-size="11" fill="{_TEXT}" role="img">',
            "<title>A job on its way from the backend through the worker to its result</title>",
            f"<defs>{head}</defs>",
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" rx="8" fill="white"/>',
            worker,
            *(line for arrow in ARROWS for line in arrow.drawn()),
            *(line for box in BOXES for line in box.drawn()),
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
