"""Made-up sentences on constructions that real reviews hold too few of: negation, turns, irony, comparison and so on.

Word lists (`synthetic_words.json`) times patterns, all written for this purpose. Both labels draw on the same clauses
and patterns, so that often only the construction tells which it is.
"""

import json
import random
from pathlib import Path

SIDES = ("bad", "good")  # label 0, label 1


def split_words(entry):
    """The lists of words in nested dictionaries, where they stand with blanks between them."""
    return entry.split() if isinstance(entry, str) else {name: split_words(part) for name, part in entry.items()}


WORDS = split_words(json.loads(Path(__file__).with_name("synthetic_words.json").read_text(encoding="utf-8")))


class Writer:
    """Draws the words of one sentence about one thing of one domain; a clause is never drawn twice."""

    def __init__(self, rng: random.Random, domain: str | None = None):
        self.rng = rng
        self.words = WORDS["domains"][domain or rng.choice(list(WORDS["domains"]))]
        self.thing = rng.choice(self.words["things"])
        self.clauses = [rng.sample(self.words[side], len(self.words[side])) for side in SIDES]

    def one(self, words) -> str:
        return self.rng.choice(words)

    def clause(self, label: int) -> str:
        return self.clauses[label].pop()

    def verdict(self, label: int) -> str:
        return self.one(WORDS["verdicts"][SIDES[label]])

    def quality(self, label: int) -> str:
        return self.one(self.words["qualities"]).split("/")[1 - label]


def plain(w: Writer, label: int) -> str:
    count = w.rng.choice([1, 1, 2, 2, 3])
    said = [w.clause(label) for _ in range(count)]
    said[0] = w.one(["", w.thing, f"这{w.one('家个款种次')}{w.thing}", "这次的"]) + said[0]
    return w.one(["，", " ", "，"]).join([*said, *([w.verdict(label)] if w.rng.random() < 0.4 else [])])


def negation(w: Writer, label: int) -> str:
    opposite, same = w.quality(1 - label), w.quality(label)
    noun = w.one(WORDS["nouns"][SIDES[1 - label]])
    return w.one(
        [
            f"{w.thing}{w.one(['一点也', '并', '一点都', '根本', '丝毫', '完全', '绝', '倒'])}不{opposite}",
            f"{w.thing}{w.one(['没有任何', '没什么', '看不到', '毫无', '没发现'])}{noun}",
            f"{w.thing}{w.one(['没有想象中那么', '没有别人说的那么', '算不上', '称不上', '说不上'])}{opposite}",
            f"{w.thing}没让人{'失望' if label else '满意'}过",
            f"从没用过这么{same}的{w.thing}",
            f"没见过比这更{same}的{w.thing}",
            f"{w.thing}不是{opposite}，是{same}",
            f"不{w.one(['会', '可能'])}{'后悔' if label else '再买'}，{w.clause(label)}",
        ]
    )


def double_negation(w: Writer, label: int) -> str:
    return w.one(
        [
            f"{w.one(['谁都不能否认', '不可否认', '无法否认', '没人会否认'])}{w.thing}{w.clause(label)}",
            f"{w.thing}没有哪一{w.one('点处样回天')}不{w.quality(label)}",
            f"{w.thing}不会有人觉得不{w.quality(label)}",
            f"不是不{'喜欢' if label else '讨厌'}，是{w.one(WORDS['intense'])}{'喜欢' if label else '讨厌'}",
            f"{w.thing}不能说不{w.quality(label)}",
            f"用过的人没有谁不{'夸' if label else '骂'}",
            f"非{'推荐' if label else '投诉'}不可，{w.clause(label)}",
            f"{w.thing}并非不{w.quality(1 - label)}"
            if w.rng.random() < 0.2
            else f"无处不{w.quality(label)}的{w.thing}",
        ]
    )


def turn(w: Writer, label: int) -> str:
    first, second = w.clause(1 - label), w.clause(label)
    more = w.one(["", "", f"，{w.verdict(label)}", f"，{w.clause(label)}"])
    opener = w.one([*WORDS["openers"], "", "", "", ""])
    return f"{opener}{w.one(['', w.thing])}{first}，{w.one(WORDS['turns'])}{second}{more}"


def but_only(w: Writer, label: int) -> str:
    """就是 brings in a drawback: the verdict behind it decides."""
    first, second = w.clause(1), w.clause(0)
    link = w.one(["就是", "唯一的缺点是", "美中不足的是", "只是"])
    calm = w.one(["不影响使用", "可以接受", "无伤大雅", "瑕不掩瑜", "不过总体满意", "其他都好"])
    return f"{w.thing}{first}，{link}{second}，{calm if label else w.verdict(0)}"


def price(w: Writer, label: int) -> str:
    if label:
        dear = w.one(["价格偏高", "是不便宜", "比别家贵", "花了不少钱", "等得久了些", "价格小贵", "贵一些"])
        worth = ["一分钱一分货", "绝对值", "物有所值", w.clause(1), f"确实{w.quality(1)}", "贵得有道理", "值这个价"]
        return f"{w.thing}{w.one(['', *WORDS['openers']])}{dear}，{w.one(WORDS['turns'][:5])}{w.one(worth)}"
    cheap = w.one(["便宜", "价格低", "打折力度大", "送了赠品", "不贵"])
    poor = ["便宜没好货", "白送都不要", w.clause(0), f"确实{w.quality(0)}", "一分钱一分货，用不住", "省了钱添了堵"]
    return f"{w.thing}{w.one(['', *WORDS['openers']])}{cheap}，{w.one(WORDS['turns'][:5])}{w.one(poor)}"


def time(w: Writer, label: int) -> str:
    before = w.one(["原先", "去年", "前几次", "刚开始", "老店那会儿", "第一天", "过去", "起初", "早些时候"])
    after = w.one(["如今", "今年", "最近", "后来", "换了老板以后", "用了一阵", "眼下", "慢慢地", "这阵子"])
    return f"{before}{w.clause(1 - label)}，{after}{w.clause(label)}{w.one(['', '，' + w.verdict(label)])}"


def comparison(w: Writer, label: int) -> str:
    other, same = w.one(WORDS["others"]), w.quality(label)
    if label:
        said = [f"{other}没有它{same}", f"{other}跟它没法比", f"把{other}甩开几条街", f"用过它就看不上{other}了"]
    else:
        said = [f"没有{other}{w.quality(1)}", f"远不及{other}", f"{other}都比它{w.quality(1)}", f"跟{other}没法比"]
        said += [f"{w.one(['不如', '赶不上', '比不过'])}{other}", f"有这钱还是买{other}吧"]
    said += [f"比{other}{same}{w.one(['多了', '得多', '一大截', '不少', ''])}"] * 3
    return w.thing + w.one(said)


def irony(w: Writer, label: int) -> str:
    if label:
        habit = w.one(
            ["停不下来", "钱包空了", "减肥又失败了", "舍不得放下", "作业都忘了写", "天天惦记", "家里人抢着要"]
        )
        return w.one(
            [
                f"唯一的问题是太{w.quality(1)}，{habit}",
                f"{w.thing}太可恶了，{w.quality(1)}得让人{habit}",
                f"怪我，没忍住又下单了，{w.clause(1)}",
                f"{w.thing}有毒吧，{habit}",
                f"骗子，说好的普通呢，明明{w.clause(1)}",
            ]
        )
    praise = w.one(
        ["真行", "好极了", "可真会做生意", "太厉害了", "真是长见识", "服务真周到", "真贴心", "质量真过硬", "够意思"]
    )
    return w.one(
        [
            f"{w.one(['呵呵，', '哈哈，', '', '您家'])}{praise}，{w.clause(0)}",
            f"{w.clause(0)}，{w.one(['可真', '真是', '也太'])}{w.quality(1)}了呢",
            f"好一个“{w.quality(1)}”，{w.clause(0)}",
            f"感谢{w.thing}，让我知道什么叫{w.clause(0)}",
            f"{w.clause(0)}，{w.one(['给您鼓掌', '佩服佩服', '我谢谢你', '真有你的', '学到了'])}",
            f"宣传说{w.clause(1)}，实际{w.clause(0)}",
        ]
    )


def question(w: Writer, label: int) -> str:
    if label:
        return w.one(
            [
                f"这么{w.quality(1)}的{w.thing}谁不爱呢？",
                f"{w.clause(1)}，还要什么自行车？",
                f"谁说{w.thing}{w.quality(0)}的？我看{w.clause(1)}",
                f"{w.clause(1)}，哪里还能挑出毛病？",
                f"怎么会有这么{w.quality(1)}的{w.thing}？",
            ]
        )
    return w.one(
        [
            f"{w.clause(0)}，这就是所谓的{w.quality(1)}？",
            f"{w.clause(0)}，好意思收钱吗？",
            f"谁说{w.thing}{w.quality(1)}的？明明{w.clause(0)}",
            f"这{w.one(['叫', '算'])}{w.quality(1)}？{w.clause(0)}",
            f"{w.thing}{w.clause(0)}，良心不会痛吗？",
            f"怎么会有这么{w.quality(0)}的{w.thing}？",
            f"哪里{w.quality(1)}了？{w.clause(0)}",
        ]
    )


def hypothetical(w: Writer, label: int) -> str:
    if label:
        return w.one(
            [
                f"真该早点买{w.thing}，{w.clause(1)}",
                f"要不是亲身体验，真不信{w.clause(1)}",
                f"如果有人问我，我一定推荐，{w.clause(1)}",
                f"假如没买会后悔，{w.clause(1)}",
                f"再贵一倍也愿意，{w.clause(1)}",
                f"可以的话想给十颗星，{w.clause(1)}",
            ]
        )
    return w.one(
        [
            f"要是{w.clause(1)}就好了，可惜{w.clause(0)}",
            f"如果能重来，绝不会选这{w.one('家个')}{w.thing}",
            f"本可以{w.clause(1)}的，偏偏{w.clause(0)}",
            f"倘若再{w.quality(1)}一点，也不会给差评",
            f"早知道{w.clause(0)}就不买了",
            f"能打负分就打负分，{w.clause(0)}",
            f"换我来做都比这{w.quality(1)}",
        ]
    )


def degree(w: Writer, label: int) -> str:
    if label:
        very = [
            f"{w.one(WORDS['intense'])}{w.quality(1)}",
            f"{w.quality(1)}极了",
            f"{w.quality(1)}得没话说",
            f"太{w.quality(1)}了",
        ]
        very += [f"{w.one(['还算', '还挺', '蛮', '比较'])}{w.quality(1)}", f"越用越{w.quality(1)}"]
        return w.thing + w.one(very)
    very = [
        f"{w.one(WORDS['intense'])}{w.quality(0)}",
        f"{w.quality(0)}极了",
        f"{w.quality(0)}得要命",
        f"太{w.quality(0)}了",
    ]
    very += [f"{w.one(['不太', '不够', '不大', '不怎么'])}{w.quality(1)}"]
    very += [
        f"{w.one(['有点', '略显', '偏'])}{w.quality(0)}",
        f"{w.one(['太', '过分'])}{w.one(WORDS['excess'])}了",
        f"越用越{w.quality(0)}",
    ]
    return w.thing + w.one(very)


def named(w: Writer, label: int) -> str:
    """The name of the thing sounds like a judgement and is none."""
    w = Writer(w.rng, w.one([domain for domain, words in WORDS["domains"].items() if "names" in words]))
    said = w.clause(label)
    return w.one(w.words["names"]) + w.one([said, f"{said}，{w.clause(label)}", f"{said}，{w.verdict(label)}"])


def mixed(w: Writer, label: int) -> str:
    said = [w.clause(1), w.clause(0), w.clause(w.rng.randrange(2)), w.clause(1 - label)]
    w.rng.shuffle(said)
    whole = w.one(["总之", "总体来说", "综合考虑", "一句话", "整体上", "最后结论：", "说到底"])
    return "，".join(said[: w.rng.choice([2, 3, 4])]) + w.one(["。", "，"]) + whole + w.verdict(label)


def long(w: Writer, label: int) -> str:
    """Most of the text leans the other way, the end decides."""
    others = [w.clause(1 - label) for _ in range(w.rng.choice([2, 3, 4]))] + [w.clause(w.rng.randrange(2))]
    lead = w.one([f"买之前看评论说{w.thing}一般，", f"我们一家三口去的，{w.thing}", f"犹豫了很久才选{w.thing}，", ""])
    turn_word = w.one([*WORDS["turns"], "最后", "真正用起来", "回头想想"])
    end = [w.clause(label) for _ in range(2)] + [w.verdict(label)]
    return lead + "，".join(others) + "。" + turn_word + "，".join(end)


def short(w: Writer, label: int) -> str:
    return w.one(WORDS["short"][SIDES[label]])


def slang(w: Writer, label: int) -> str:
    said = w.one(WORDS["slang"][SIDES[label]])
    return w.one(
        [said, f"{w.thing}{said}", f"{said}，{w.clause(label)}", f"{w.clause(label)}，{said}", f"姐妹们，{said}"]
    )


def emoji(w: Writer, label: int) -> str:
    signs = WORDS["emoji"][SIDES[label]]
    alone = w.one(signs) * w.rng.choice([1, 2, 3, 4])
    return w.one(
        [alone, alone, "".join(w.rng.choices(signs, k=w.rng.choice([2, 3]))), f"{w.clause(label)}{w.one(signs)}"]
    )


# How often each is drawn.
PATTERNS = [
    *[plain, turn] * 4,
    *[negation] * 3,
    *[double_negation, but_only, price, time, comparison, irony, question, hypothetical, degree, named, mixed, long]
    * 2,
    *[short, slang, emoji],
]


def synthetic_sentences(count: int, seed: str) -> tuple[list[str], list[int]]:
    """Distinct sentences and their labels, half of them positive, drawn with this seed."""
    rng = random.Random(seed)
    found: dict[str, int] = {}
    for number in range(count):
        label = number % 2
        text = rng.choice(PATTERNS)(Writer(rng), label)
        text += rng.choice(["。", "。", "", "！", "~"]) if text[-1].isalnum() else ""
        found.setdefault(text, label)
    return list(found), list(found.values())
