"""Sentences as models write them, labelled by hand: does what they name follow from the likes and their pick?

Many others of the catalogue have plain words for titles and names ("Home", "Stay", "Journey", "하루", "恋"), so that a
check that only looks for words takes true sentences for false ones.
"""

from dataclasses import dataclass, replace

from models.catalogue import Item
from models.recommendation import Candidate
from tests.support.builders import make_candidate, make_item


def _song(
    item_id: int,
    titles: dict[str, str],
    creator: str,
    genres: tuple[str, ...],
    moods: tuple[str, ...] = (),
    local: str | None = None,
) -> Item:
    made = make_item(item_id, creator=creator, genres=genres, moods=moods)
    return replace(made, titles=titles, creator_local=local)


LIKES = [
    _song(1, {"en": "Blinding Lights"}, "The Weeknd", ("synth-pop",), ("bright",)),
    _song(2, {"ko": "밤편지", "en": "Through the Night"}, "IU", ("발라드",), ("잔잔한",), "아이유"),
    _song(3, {"ja": "夜に駆ける", "en": "Racing into the Night"}, "YOASOBI", ("J-POP",), ("疾走感",)),
    _song(4, {"en": "Someone Like You"}, "Adele", ("pop",), ("melancholic",), "아델"),
    _song(5, {"ko": "봄날", "en": "Spring Day"}, "BTS", ("k-pop",), ("그리운",), "방탄소년단"),
    _song(6, {"ja": "マリーゴールド"}, "あいみょん", ("J-POP",), ("切ない",)),
    _song(7, {"en": "thank u, next"}, "Ariana Grande", ("pop",), ()),
]
PICKS = {
    "love": _song(10, {"en": "Love"}, "Lauv", ("indie pop",), ("calm",)),
    "home": _song(11, {"en": "Home"}, "Michael Bublé", ("jazz",), ("warm",)),
    "star": _song(12, {"ko": "밤하늘의 별을"}, "Kyoungseo", ("발라드",), ("따뜻한",), "경서"),
    "flower": _song(13, {"ja": "ドライフラワー"}, "優里", ("J-POP",), ("静かな",)),
}
OTHERS = [
    _song(20, {"en": "Bohemian Rhapsody"}, "Queen", ("rock",), ("dark",)),
    _song(21, {"en": "Stay"}, "Rihanna", ("r&b",), ("sad",)),
    _song(22, {"en": "Levitating"}, "Dua Lipa", ("disco",), ("happy",)),
    _song(23, {"en": "Hurt"}, "Johnny Cash", ("country",), ("dark",)),
    _song(24, {"en": "Home"}, "Edward Sharpe", ("folk",)),
    _song(25, {"en": "Don't Stop Believin'"}, "Journey", ("hard rock",), ("energetic",)),
    _song(26, {"en": "Alone"}, "Heart", ("soft rock",)),
    _song(27, {"en": "Sunday Morning"}, "Maroon 5", ("soul",)),
    _song(28, {"en": "bad guy"}, "Billie Eilish", ("electropop",), ("dark",)),
    _song(29, {"ko": "아무노래"}, "ZICO", ("힙합",), ("신나는",), "지코"),
    _song(30, {"ko": "사건의 지평선"}, "Younha", ("록",), ("벅찬",), "윤하"),
    _song(31, {"ko": "벚꽃 엔딩"}, "Busker Busker", ("인디",), ("설레는",), "버스커 버스커"),
    _song(32, {"ko": "하루"}, "Kim Bum Soo", ("발라드",), (), "김범수"),
    _song(33, {"ko": "눈, 코, 입"}, "TAEYANG", ("알앤비",), (), "태양"),
    _song(34, {"ko": "사랑은 늘 도망가"}, "Lim Young Woong", ("트로트",), (), "임영웅"),
    _song(35, {"ko": "좋은 날"}, "Oh My Girl", ("댄스",), (), "오마이걸"),
    _song(36, {"ja": "残酷な天使のテーゼ"}, "高橋洋子", ("アニソン",), ("激しい",)),
    _song(37, {"ja": "千本桜"}, "黒うさP", ("ボカロ",)),
    _song(38, {"ja": "恋"}, "星野源", ("ポップス",), ("明るい",)),
    _song(39, {"ja": "津軽海峡・冬景色"}, "石川さゆり", ("演歌",)),
    _song(40, {"ja": "Lemon"}, "米津玄師", ("ロック",)),
    _song(41, {"ja": "さよならエレジー"}, "菅田将暉", ("ロック",)),
    _song(42, {"ja": "猫"}, "DISH//", ("ロック",)),
    _song(43, {"ja": "栄光の架橋"}, "ゆず", ("フォーク",)),
    _song(44, {"en": "Sunflower"}, "Post Malone", ("hip hop",)),
    _song(45, {"en": "Paradise"}, "Coldplay", ("alternative",)),
]


@dataclass(frozen=True, slots=True)
class Labelled:
    """``is_true`` by a person's judgement; ``pick`` is what the sentence is about."""

    locale: str
    pick: Candidate
    text: str
    is_true: bool


def _labelled(locale: str, pick: str, true: str, untrue: str) -> list[Labelled]:
    return [
        Labelled(locale, make_candidate(PICKS[pick]), line.strip(), is_true)
        for lines, is_true in ((true, True), (untrue, False))
        for line in lines.strip().splitlines()
    ]


SENTENCES = [
    *_labelled(
        "en",
        "love",
        """
        Shares the bright synth-pop energy of Blinding Lights you love
        Close to “Blinding Lights” by The Weeknd, which you like
        Calm indie pop for fans of The Weeknd's sound
        I will stay with you: a love song in calm indie pop
        A queen of melody at her best
        Don't stop: it's The Weeknd's mood, isn't it
        Feels like coming home after a long drive
        A tender journey straight to the heart
        Love that lingers long after the last chorus
        Quiet and unhurried, like Someone Like You
        The gentle side of your Adele collection
        For a calm Sunday morning with coffee
        Perfect for dark winter nights
        Same confident spirit as “thank u, next”
        Soft vocals with a “slow burn” chorus
        Lauv's voice sits close, as Adele's does
        Korean and English lines echo IU's intimacy
        If IU and BTS move you, this will too
        Its synths could rock you to sleep
        A pop gem with 80s shimmer
        Stay up late with this one
        Home is where this chorus lives
        Heart on its sleeve, calm in its voice
        A hint of Racing into the Night in the piano line
        A shimmer of the 1980s in its synths
        Soft enough for slow evenings
        A quiet place for angry thoughts
        It hurts in the best way
        """,
        """
        Like Madonna's Vogue, which you play every day
        It has the soul of “Purple Rain”
        As catchy as "Hey Jude"
        For fans of Queen and big choruses
        As grand as Bohemian Rhapsody
        Hard rock with a calm heart
        A dark and brooding song
        You will think of Taylor Swift here
        Smooth r&b for slow evenings
        Borrows its bassline from Levitating
        Reminds of Dua Lipa at her calmest
        Johnny Cash would have sung it this way
        Because you love Rihanna
        As sly as “bad guy”
        A country song in disguise
        The calm answer to “Stay”
        Follows naturally from your Coldplay phase
        Disco strings under an indie pop voice
        Like Journey, but with synths
        In the spirit of Frank Ocean and Blonde
        Jazz chords carry a calm melody
        Close to Elton John, whom you like
        A reggae sway under the vocals
        A furious 190 BPM banger
        Gloomy and aggressive
        A dark, sad song
        Released in 2019, it still shines
        The Grammy-winning calm of Lauv
        A happy song for the road
        Romantic to the last note
        Upbeat and danceable from the first bar
        BPM of 128, steady as a heart
        """,
    ),
    *_labelled(
        "en",
        "home",
        """
        Warm jazz that feels like home
        Michael Bublé croons as warmly as Adele
        Warm brass for a dark evening
        A crooner's answer to Someone Like You
        Big-band warmth beside your synth-pop
        """,
        """
        Swing in the manner of Frank Sinatra
        The folk warmth of Edward Sharpe
        Warm like Norah Jones
        """,
    ),
    *_labelled(
        "ko",
        "star",
        """
        좋아하시는 밤편지처럼 잔잔하고 따뜻한 감성의 발라드예요
        좋아하시는 ‘밤편지’ 느낌을 잇는 따뜻한 곡이에요
        아이유의 목소리를 좋아하신다면 마음에 드실 거예요
        봄날에 듣기 좋은 노래예요
        방탄소년단의 ‘봄날’처럼 그리운 마음을 담았어요
        하루를 마무리하며 듣기 좋은 발라드
        좋은 날에 어울리는 따뜻한 목소리예요
        태양처럼 따뜻한 위로를 건네요
        잔잔한 발라드를 즐기시는 취향에 꼭 맞아요
        밤하늘의 별을 보며 듣기 좋은 곡이에요
        경서의 맑은 음색이 돋보이는 발라드예요
        IU의 감성과 닮은 따뜻한 발라드
        Adele의 깊은 울림을 떠올리게 해요
        아델의 ‘Someone Like You’처럼 마음을 울려요
        The Weeknd의 Blinding Lights와는 다른 잔잔함이 있어요
        사랑은 늘 어렵지만 이 노래는 위로가 돼요
        신나는 주말에 어울리는 따뜻한 곡이에요
        기록하고 싶은 밤에 어울리는 노래예요
        K-POP 발라드의 정석 같은 곡이에요
        따뜻한 ‘위로’가 필요한 밤에 들어보세요
        목록에 꼭 넣어 두고 싶은 잔잔한 노래예요
        YOASOBI의 夜に駆ける와 이어 듣기 좋아요
        BTS와 아이유를 좋아하시는 분께 추천해요
        벚꽃이 피는 계절에 잘 어울려요
        당신의 발라드 취향에 딱 맞는 선택이에요
        눈을 감고 듣기 좋은 따뜻한 멜로디예요
        조용히 귀 기울이게 되는 발라드예요
        어두운 밤을 밝히는 따뜻한 목소리예요
        2000년대 감성의 발라드예요
        """,
        """
        매일 들으시는 마돈나의 Vogue와 닮았어요
        ‘벚꽃 엔딩’처럼 설레는 곡이에요
        벚꽃 엔딩처럼 봄을 부르는 노래예요
        지코의 음악처럼 톡톡 튀어요
        신나는 힙합 비트예요
        강렬한 록 사운드가 매력적이에요
        임영웅의 따뜻한 감성을 닮았어요
        윤하의 목소리처럼 시원해요
        사건의 지평선을 좋아하신다면 추천해요
        구성진 트로트 한 곡 어떠세요
        재즈 선율이 흐르는 밤이에요
        김범수의 명곡을 떠올리게 해요
        Dua Lipa의 리듬감을 닮았어요
        오마이걸처럼 상큼한 매력이 있어요
        ‘좋은 날’의 설렘을 다시 느껴보세요
        Coldplay 같은 웅장함이 있어요
        버스커 버스커의 봄 감성이에요
        R&B 그루브가 살아 있는 곡이에요
        신나는 댄스 리듬의 노래예요
        ‘첫눈처럼 너에게 가겠다’와 비슷해요
        보사노바 리듬이 살랑이는 곡이에요
        김광석의 쓸쓸함을 닮았어요
        태양의 노래를 좋아하신다면 추천해요
        어쿠스틱 기타의 인디 감성이에요
        어두운 분위기의 노래예요
        로맨틱한 분위기에 빠져드는 노래예요
        2018년 최고의 발라드예요
        그래미가 사랑한 목소리예요
        BPM 128의 발라드예요
        """,
    ),
    *_labelled(
        "ja",
        "flower",
        """
        お好きな「夜に駆ける」に近い、疾走感のある切ない曲です
        YOASOBIの『夜に駆ける』が好きな方に
        残酷なほど美しいJ-POPです
        あいみょんの「マリーゴールド」のように切ない一曲です
        優里の静かな歌声が心に響きます
        恋の終わりを描いた切ないJ-POPです
        猫のように気まぐれなメロディーです
        静かな夜に聴きたい一曲です
        明るい朝にもよく合う静かな曲です
        あいみょんが好きな方におすすめのJ-POPです
        YOASOBIの世界観に通じる物語性があります
        マリーゴールドの余韻が続くような曲です
        The Weekndの「Blinding Lights」とは違う静けさです
        Adeleのような深い歌声が魅力です
        IUのやさしさに通じる静かな曲です
        ゆずれない想いを歌った切ない曲です
        夜に駆けるような疾走感が心地よい曲です
        ソウルの街を歩きながら聴きたい曲です
        心をブロックから解き放つような曲です
        ドライフラワーのように色あせない想いです
        切ない「片想い」を描いた静かな曲です
        BTSの「Spring Day」が好きな方に
        冬景色に似合う静かなJ-POPです
        J-POPらしい切ないメロディーです
        失恋の夜にそっと寄り添う一曲です
        星の下で静かに聴きたくなります
        暗い夜を照らす静かな曲です
        90年代を思わせる切ない曲です
        甘い思い出がよみがえる一曲です
        明るい曲がお好きなあなたへ
        """,
        """
        毎日聴いているマドンナのVogueに似ています
        「千本桜」のように速い曲です
        『千本桜』が好きな方に
        米津玄師の世界に近い曲です
        しみじみとした演歌です
        高橋洋子のような力強い歌声です
        残酷な天使のテーゼを思わせる曲です
        激しいロックサウンドが魅力です
        菅田将暉の歌声に通じる熱さです
        さよならエレジーに近い切なさです
        ボカロらしい速さが楽しい曲です
        「恋」のように踊りたくなる曲です
        星野源が好きな方におすすめです
        石川さゆりの名曲を思わせます
        Coldplayのような壮大さがあります
        ジャズの香りがする静かな曲です
        アニソンのような勢いがあります
        「栄光の架橋」に似た感動があります
        Lemonが好きな方におすすめです
        Dua Lipaのようなディスコサウンドです
        宇多田ヒカルの「First Love」のように切ないです
        ヒップホップのリズムが心地よい曲です
        ゆずの歌が好きな方に
        シティポップ風のアレンジです
        ダークな雰囲気の曲です
        BPM 180の切ない曲です
        2015年のヒット曲です
        グラミー賞に輝いた歌声です
        思わず踊れる一曲です
        """,
    ),
]

# Written after the rules of the check, which were not changed for them.
HELD_OUT = [
    *_labelled(
        "en",
        "love",
        """
        A bright chorus that meets your synth-pop side
        If Blinding Lights is your night drive, this is the way home
        Quiet confession in the vein of Adele's ballads
        Calm and hushed, made for late nights
        Late-night pop with a little ache
        Lauv keeps it simple and sincere
        Indie pop sparkle for your K-pop evenings
        Alone with a guitar and a good melody
        A sunflower kind of song: always facing the light
        Brings a slice of paradise to your commute
        Echoes “Someone Like You” in its honesty
        The same longing as Spring Day by BTS
        Happy-sad in the way you like
        Gentle enough to hurt a little
        A small rock in a stormy sea
        Big feelings, small room
        Because The Weeknd's falsetto clearly works for you
        Cozy like Sunday at home
        Made for fans of Ariana Grande's softer side
        One more love song you will keep
        """,
        """
        As polished as Ed Sheeran's Perfect
        Country storytelling with a twist
        Sounds like Billie Eilish at dawn
        If you enjoyed Levitating, try this
        A folk tune at heart
        The heir of “Yesterday”
        A metal riff hides in the bridge
        Fans of Maroon 5 will smile
        Channels Fleetwood Mac harmonies
        You also like Bruno Mars
        Hip hop drums under a soft voice
        A soul ballad for the small hours
        Mellow jazz for your evenings
        Right after “Paradise” in your list
        Reminiscent of Sunday Morning
        """,
    ),
    *_labelled(
        "ko",
        "star",
        """
        발라드를 아끼는 마음에 조용히 스며들어요
        아이유처럼 담백하게 부르는 노래예요
        ‘밤편지’를 좋아하셨다면 분명 마음에 드실 거예요
        지친 하루 끝에 위로가 되는 멜로디예요
        봄날 같은 포근함이 느껴져요
        밤에 듣기 좋은 따뜻한 발라드
        방탄소년단의 서정적인 면을 좋아하신다면
        거리를 걸으며 듣기 좋은 곡이에요
        사랑은 이렇게 조용히 온다는 노래
        좋은 날씨에 산책하며 들어보세요
        경서의 목소리가 별빛처럼 내려앉아요
        감성적인 K-POP 팬에게 추천해요
        The Weeknd와는 또 다른 밤의 분위기예요
        당신의 밤을 닮은 노래
        눈물이 날 만큼 아름다운 곡이에요
        """,
        """
        성시경의 발라드를 좋아하신다면 추천해요
        록 음악의 에너지가 느껴져요
        아무노래처럼 중독성 있어요
        폴킴의 ‘모든 날, 모든 순간’처럼 달콤해요
        시티팝 감성이 물씬 나요
        Taylor Swift의 이야기처럼 생생해요
        지코 특유의 리듬이 있어요
        인디 밴드의 풋풋함이 있어요
        힙합을 즐겨 들으시는 분께 딱이에요
        설레는 봄의 시작을 알려요
        레게 리듬이 경쾌해요
        임영웅처럼 진심을 담아 불러요
        """,
    ),
    *_labelled(
        "ja",
        "flower",
        """
        切ない恋心を静かに歌い上げる曲です
        あいみょんのまっすぐな歌詞が好きな方へ
        「マリーゴールド」の次に聴きたい曲です
        夜に駆けるの疾走感とは対照的な静けさです
        優里らしい等身大の言葉が響きます
        静かな部屋で聴きたいJ-POPです
        猫と過ごす夜にも似合います
        明るい日にもそっと寄り添います
        YOASOBI好きにも刺さる物語のある曲です
        花のように儚いメロディーです
        終わった恋を思い出す一曲です
        千の言葉より伝わる歌声です
        アデルのような包容力のある歌です
        切なさの中に希望が光ります
        J-POPの王道バラードです
        """,
        """
        Official髭男dismのような華やかさです
        演歌のようなこぶしが光ります
        「紅蓮華」のような力強さです
        ロックバンドの熱さを感じます
        米津玄師が好きなら気に入るはずです
        ボカロ好きにおすすめです
        明るいポップスで元気になれます
        フォークの素朴さがあります
        Taylor Swiftに似た物語性があります
        『恋』を聴くあなたに
        激しいギターが印象的です
        テクノのビートが心地よいです
        """,
    ),
]
