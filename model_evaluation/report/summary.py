"""The judgements behind the summary's sentences, which stand in templates/summary.html; pure functions of the files.

Every function takes one result file and returns what its sentence needs beside the figures. `careful` marks an answer
that limits what the figures mean: a difference that is not significant, an interval that reaches chance.
"""

from typing import Any

SIGNIFICANT = 0.05
WEAKEST = 3  # abilities and perturbations named in the summary
WELL_CALIBRATED = 0.02  # ECE below this: confidence can be read as it stands
HEADLINE_TARGET = 0.97  # the precision that the README's examples ask for
CHANCE = 0.5  # the behaviour suite has two labels


def judge_accuracy(metrics: dict) -> dict[str, Any]:
    """`largest_class`: the accuracy of always answering the most frequent label."""
    largest_class = max(map(sum, metrics["confusion_matrix"])) / metrics["n"]
    interval = (metrics.get("intervals") or {}).get("accuracy")
    lowest = interval[0] if interval else metrics["accuracy"]
    return {"largest_class": largest_class, "interval": interval, "careful": lowest <= largest_class}


def judge_memorised(metrics: dict) -> dict[str, Any]:
    nothing_seen = "seen" in metrics and metrics["seen"] is None
    return {"careful": not nothing_seen}


def judge_calibration(confidence: dict) -> dict[str, Any]:
    """`excess`: by how much the average confidence is above the accuracy."""
    test = confidence["calibration"]["test"]
    return {
        "excess": test["before"]["avg_confidence"] - test["accuracy"],
        "careful": test["after"]["ece"] >= WELL_CALIBRATED,
    }


def judge_baselines(comparison: dict) -> dict[str, Any]:
    """`linear`: the character n-gram model, the cheap way that has to be beaten; `gap`: how much ours is above it."""
    linear = None
    for name, entry in (comparison.get("baselines") or {}).items():
        if "tfidf" in name.lower().replace("_", "").replace("-", "") or "TF-IDF" in entry.get("title", ""):
            linear = entry
            break
    if linear is None:
        return {"linear": None, "careful": True}
    gap = comparison["fine_tuned_model"]["accuracy"] - linear["accuracy"]
    significant = linear["mcnemar"] is not None and linear["mcnemar"]["p_value"] < SIGNIFICANT
    return {"linear": linear, "gap": gap, "significant": significant, "careful": gap <= 0 or not significant}


def judge_weaknesses(robustness: dict) -> dict[str, Any]:
    """`perturbations` that cost the most, worst first; `abilities` with the lowest accuracy; `chance`: at its level."""
    applied = [test for test in robustness["perturbation_tests"].values() if test["applied"]]
    harmful = [test for test in applied if _drop(test) > 0]
    harmful.sort(key=_drop, reverse=True)

    behaviour = robustness["behaviour"]
    abilities = sorted(behaviour["abilities"].values(), key=lambda ability: ability["accuracy"]) if behaviour else []
    chance = [ability for ability in abilities[:WEAKEST] if at_chance(ability)]
    return {
        "applied": applied,
        "perturbations": harmful[:WEAKEST],
        "abilities": abilities[:WEAKEST],
        "chance": chance,
        "careful": bool(chance) or not abilities,
    }


def _drop(test: dict) -> float:
    return test["original_accuracy"] - test["perturbed_accuracy"]


def at_chance(ability: dict) -> bool:
    """Whether the interval of an ability's accuracy reaches down to guessing."""
    lowest = ability["interval"][0] if ability["interval"] else ability["accuracy"]
    return lowest <= CHANCE


def judge_thresholds(confidence: dict) -> dict[str, Any]:
    """`chosen`: the row of the threshold table nearest to the headline's target; `without`: targets that none reaches.

    `missed`: on the test rows the precision is below the target.
    """
    rows = confidence["thresholds"]
    without = [row["target"] for row in rows if row["threshold"] is None]
    found = [row for row in rows if row["threshold"] is not None]
    if not found:
        return {"chosen": None, "without": without, "reason": rows[0]["reason"], "careful": True}
    chosen = min(found, key=lambda row: (abs(row["target"] - HEADLINE_TARGET), row["target"]))
    precision = chosen["test"]["precision"]
    missed = precision is not None and precision < chosen["target"]
    return {"chosen": chosen, "without": without, "missed": missed, "careful": missed or precision is None}


# question, section, macro of summary.html, judgement; in the order in which a reader asks
QUESTIONS = (
    ("有多准？", "metrics", "accuracy", judge_accuracy),
    ("有多少是背下来的？", "metrics", "memorised", judge_memorised),
    ("它说有把握，可信吗？", "confidence", "calibration", judge_calibration),
    ("比便宜的办法强多少？", "baselines", "baselines", judge_baselines),
    ("最怕什么？", "robustness", "weaknesses", judge_weaknesses),
    ("哪些可以不用人看？", "confidence", "thresholds", judge_thresholds),
)
