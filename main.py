"""The command line: ``python main.py COMMAND --help`` explains each command."""

import typer

from commands import (
    catalogue,
    check,
    dashboard,
    dead_letters,
    demo,
    demo_site,
    imports,
    jobs,
    log_level,
    members,
    models,
    quality,
    refresh,
    serve,
    simulate,
    site,
)

PANELS = {
    "Serve": (serve.worker, serve.api),
    "Jobs": (jobs.publish, jobs.result, refresh.refresh),
    "Catalogue": (catalogue.migrate, catalogue.ingest, check.check, catalogue.embed, catalogue.retrieval),
    "Quality": (quality.rank, quality.evaluate, models.fit, simulate.simulate),
    "Site": (site.schedule, site.digest, site.clean_up, log_level.log_level, members.forget),
    "Start here": (demo.demo, dashboard.dashboard, demo_site.demo_catalogue, demo_site.first_recommendation),
}

app = typer.Typer(name="songs-ai", no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def _about() -> None:
    """Songs AI: a queue-driven recommendation worker."""


for panel, commands in PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(dead_letters.dead_letters, name="dead-letters", rich_help_panel="Jobs")
app.add_typer(imports.imports, name="import", rich_help_panel="Catalogue")
app.add_typer(models.models, name="models", rich_help_panel="Quality")

if __name__ == "__main__":
    app()
