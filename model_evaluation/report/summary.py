"""The summary in plain words: what a reader wants to know about a classifier, answered from the result files.

    for finding in summary(read_results(Path("model_evaluation/outputs"))):
        print(finding.question, finding.answer)

Every sentence says no more than its figures hold: an interval is named as such, a difference that is not significant
is called that, and where a step has no result the answer is that it has not been measured.
"""

from collections.abc import Callable
from dataclasses import dataclass

from markupsafe import Markup

from model_evaluation.report.results import Figures, Results, percent, short_percent

SIGNIFICANT = 0.05
WEAKEST = 3  # abilities and perturbations named in the summary
WELL_CALIBRATED = 0.02  # ECE below this: confidence can be read as it stands
HEADLINE_TARGET = 0.97  # the precision that the README's examples ask for
CHANCE = 0.5  # the behaviour suite has two labels
UNMEASURED = "还没有测，命令见下文。"


@dataclass(frozen=True)
class Finding:
    """A question and its answer (HTML); `careful` marks an answer that limits what the figures mean."""

    question: str
    answer: Markup
    careful: bool = False


def summary(results: Results) -> list[Finding]:
    """Six answers, in the order in which a reader asks; one that the files do not tell says so."""
    questions: list[tuple[str, str, Callable[[Figures], tuple[Markup, bool]]]] = [
        ("有多准？", "metrics", _how_good),
        ("有多少是背下来的？", "metrics", _how_much_memorised),
        ("它说有把握，可信吗？", "confidence", _how_calibrated),
        ("比便宜的办法强多少？", "baselines", _how_much_better),
        ("最怕什么？", "robustness", _weakest),
        ("哪些可以不用人看？", "confidence", _which_threshold),
    ]
    return [_finding(results, *question) for question in questions]


def headline(results: Results) -> Markup:
    """One sentence for the top of the page."""
    try:
        figures = results.figures("metrics")
        right = round(100 * figures.at("accuracy"))
        return Markup("每 100 条评论，判对约 <strong>{}</strong> 条").format(right)
    except (KeyError, TypeError):
        return Markup("准确率还没有测")


def _finding(results: Results, question: str, step: str, answer: Callable) -> Finding:
    if step not in results.data:
        return Finding(question, Markup(UNMEASURED), careful=True)
    try:
        return Finding(question, *answer(results.figures(step)))
    except (KeyError, TypeError, ValueError) as error:  # an older or foreign file
        return Finding(question, Markup("结果文件不完整，答不了：{}").format(str(error)), careful=True)


def _how_good(f: Figures) -> tuple[Markup, bool]:
    told = Markup("在 {} 条评论上判对 {}。").format(f.count("n"), f.percent("accuracy"))
    if "intervals" in f.data:
        told += Markup("测的只是一部分评论：换一批同样来源的，数字会变；真实的准确率有 95% 的把握在 {} 之间。").format(
            f.interval("intervals", "accuracy")
        )
    confusion = f.at("confusion_matrix")
    largest = max(map(sum, confusion)) / f.at("n")
    no_better = f.at("accuracy") <= largest or ("intervals" in f.data and f.at("intervals", "accuracy", 0) <= largest)
    if no_better:
        told += Markup("只要总答最多的那一类就能判对 {}：看不出它比这更好。").format(percent(largest))
    return told + _what_auc_means(f), no_better


def _what_auc_means(f: Figures) -> Markup:
    names = list(f.at("per_class"))
    if f.at("auc") is None:
        return Markup("")
    if len(names) == 2:
        told = "AUC 为 {}：随便拿一条{}、一条{}评论，它把{}的那条排在前面的机会就这么大。"
        return Markup(told).format(f.number("auc"), names[1], names[0], names[1])
    told = "宏平均 AUC 为 {}：随便拿一条某类的、一条别类的评论，它给前者这一类的概率更高的机会，各类平均就这么大。"
    return Markup(told).format(f.number("auc"))


def _how_much_memorised(f: Figures) -> tuple[Markup, bool]:
    if "seen" not in f.data:
        return Markup("没有核对测试评论是否在训练中出现过。"), True
    if f.at("seen") is None:
        return Markup("测试的评论没有一条在训练中出现过：成绩里没有背下来的部分。"), False
    seen = Markup("测试的评论里有 {} 条在训练中出现过，它可能背下了答案；在这些上判对 {}。").format(
        f.count("seen", "n"), f.percent("seen", "accuracy")
    )
    if f.at("unseen") is None:
        return seen + Markup("没有一条是新的：这些成绩说明不了它对新评论有多准。"), True
    unseen = Markup("没见过的 {} 条上判对 {}（95% 区间 {}）：要知道它对新评论有多准，看这个数。").format(
        f.count("unseen", "n"), f.percent("unseen", "accuracy"), f.interval("unseen", "intervals", "accuracy")
    )
    return seen + unseen, True


def _how_calibrated(f: Figures) -> tuple[Markup, bool]:
    test = ("calibration", "test")
    accuracy, before = f.at(*test, "accuracy"), f.at(*test, "before", "avg_confidence")
    ece_before, ece_after = f.at(*test, "before", "ece"), f.at(*test, "after", "ece")
    lean = "过于自信" if before > accuracy else "不够自信"
    told = Markup("它自己报的把握平均是 {}，实际判对 {}，{}。").format(
        f.percent(*test, "before", "avg_confidence"),
        f.percent(*test, "accuracy"),
        "两者相当" if abs(before - accuracy) < 0.01 else f"{lean}（差 {100 * abs(before - accuracy):.1f} 个百分点）",
    )
    told += Markup("用验证集定的温度 {} 校准后，把握与实际的平均差距（ECE）从 {} 变成 {} 个百分点").format(
        f.number("temperature"), f.points(*test, "before", "ece"), f.points(*test, "after", "ece")
    )
    if ece_after < WELL_CALIBRATED:
        return told + Markup("：它说 90% 有把握的，大约十次里对九次。"), False
    worse = "，没有变小" if ece_after >= ece_before else ""
    return told + Markup("{}：报的把握要打折扣看。").format(worse), True


def _how_much_better(f: Figures) -> tuple[Markup, bool]:
    told = Markup("")
    if f.at("baseline_model"):
        told = Markup("不微调的基座判对 {}，微调后 {}（{}）。").format(
            f.percent("baseline_model", "accuracy"), f.percent("fine_tuned_model", "accuracy"), f.text("improvement")
        )
    if (name := linear_baseline(f.data)) is None:
        return told + Markup("没有和只统计字词片段的线性模型比：那才是要赢的对手。"), True
    entry = ("baselines", name)
    trained = f.at(*entry, "train_seconds") is not None
    quick = Markup("、训练只用 {} ").format(f.duration(*entry, "train_seconds")) if trained else ""
    told += Markup("只统计一到三字的片段{}的线性模型（TF-IDF）判对 {}，").format(quick, f.percent(*entry, "accuracy"))
    verdict, careful = _against(f, entry)
    return told + verdict, careful


def _against(f: Figures, entry: tuple[str, str]) -> tuple[Markup, bool]:
    """How the fine-tuned model stands against one baseline, and whether that is no clear win."""
    gap = f.at("fine_tuned_model", "accuracy") - f.at(*entry, "accuracy")
    points = f"{100 * abs(gap):.1f} 个百分点"
    compared = "微调模型与它一样" if gap == 0 else f"微调模型比它{'高' if gap > 0 else '低'} {points}"
    if f.at(*entry, "mcnemar") is None:
        return Markup("{}（没有做检验）。").format(compared), True
    p = f.at(*entry, "mcnemar", "p_value")
    verdict = "差别显著" if p < SIGNIFICANT else "差别不显著：凭这些评论说不出谁更好"
    tested = Markup("p {}" if p < 0.001 else "p = {}").format(f.p_value(*entry, "mcnemar", "p_value"))
    return Markup("{}；McNemar 检验 {}，{}。").format(compared, tested, verdict), gap <= 0 or p >= SIGNIFICANT


def linear_baseline(comparison: dict) -> str | None:
    """The name of the character n-gram model among the baselines."""
    names = (comparison.get("baselines") or {}).items()
    return next(
        (
            name
            for name, entry in names
            if "tfidf" in name.lower().replace("_", "").replace("-", "") or "TF-IDF" in entry.get("title", "")
        ),
        None,
    )


def _weakest(f: Figures) -> tuple[Markup, bool]:
    abilities, careful = _weakest_abilities(f)
    return _weakest_perturbations(f) + abilities, careful


def _weakest_perturbations(f: Figures) -> Markup:
    tests = f.at("perturbation_tests")
    drops = {
        name: test["original_accuracy"] - test["perturbed_accuracy"] for name, test in tests.items() if test["applied"]
    }
    worst = [name for name in sorted(drops, key=lambda name: -drops[name]) if drops[name] > 0][:WEAKEST]
    named = [
        Markup("{}（{} → {}）").format(
            tests[name]["title"],
            f.percent("perturbation_tests", name, "original_accuracy"),
            f.percent("perturbation_tests", name, "perturbed_accuracy"),
        )
        for name in worst
    ]
    if named:
        return Markup("把评论稍加改动、意思不变，掉得最多的是{}。").format(Markup("、").join(named))
    return Markup("把评论稍加改动、意思不变，准确率没有下降。" if drops else "")


def _weakest_abilities(f: Figures) -> tuple[Markup, bool]:
    if not f.at("behaviour"):
        reason = f.data.get("behaviour_reason")
        return Markup("没有做能力测试{}。").format(f"：{reason}" if reason else ""), True
    abilities = f.at("behaviour", "abilities")
    worst = sorted(abilities, key=lambda name: abilities[name]["accuracy"])[:WEAKEST]
    named = [
        Markup("{}（{}）").format(abilities[name]["title"], f.percent("behaviour", "abilities", name, "accuracy"))
        for name in worst
    ]
    told = Markup("按能力出的题里，最弱的是{}").format(Markup("、").join(named))
    chance = [abilities[name]["title"] for name in worst if abilities[name]["interval"][0] <= CHANCE]
    if not chance:
        return told + Markup("。"), False
    return told + Markup("；其中{}，看不出比乱猜强。").format("、".join(chance)), True


def _which_threshold(f: Figures) -> tuple[Markup, bool]:
    rows = list(enumerate(f.at("thresholds")))
    found = [(i, row) for i, row in rows if row["threshold"] is not None]
    if not found:
        targets, (_, lowest) = "、".join(short_percent(row["target"]) for _, row in rows), rows[0]
        told = "没有一个阈值能担保 {} 的精确率（{}）。没有哪部分可以放心不看。"
        return Markup(told).format(targets, lowest["reason"]), True
    i, row = min(found, key=lambda item: (abs(item[1]["target"] - HEADLINE_TARGET), item[1]["target"]))
    told = Markup("校准后的置信度不低于 {} 的可以交给它：担保平均至少 {} 判对。").format(
        f.number("thresholds", i, "threshold"), short_percent(row["target"])
    )
    if row["test"]["precision"] is None:
        return told + "但测试集里没有一条达到这个置信度。", True
    told += Markup("在测试集上这占 {}，其中判对 {}（95% 区间 {}）；其余的由人来看。").format(
        f.percent("thresholds", i, "test", "coverage"),
        f.percent("thresholds", i, "test", "precision"),
        f.interval("thresholds", i, "test", "interval"),
    )
    missed = row["test"]["precision"] < row["target"]
    told += Markup("注意：测试集上的精确率低于目标。") if missed else Markup("")
    without = [short_percent(row["target"]) for _, row in rows if row["threshold"] is None]
    told += Markup("要 {} 则没有阈值能担保。").format("、".join(without)) if without else Markup("")
    return told, missed
