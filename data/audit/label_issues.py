"""Rows that are probably mislabelled: confident learning on probabilities of a model that has not seen them.

    rows_of = distinct_rows(train)
    probs = out_of_fold_probabilities(texts, labels, groups, seed=42)
    for position, score in find_suspicious(labels, probs): ...

Northcutt, Jiang, Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels",
https://arxiv.org/abs/1911.00068, by the package `cleanlab`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data.audit.duplicates import rows_by_text
from data.dataset import Rows
from data.preprocessing import clean_text, text_hash
from data.spreadsheet_csv import write_csv
from runtime.atomic_files import atomic_write

# Of the table; `action` and `new_label` are for a person to fill in (`data.audit.corrections`).
COLUMNS = (
    "split", "file", "where", "text", "label", "suggested_label", "action", "new_label", "score", "copies",
)  # fmt: skip
SHOWN_COPIES = 10
FOLDS = 5
# With fewer distinct texts of a label, four fifths of them teach a bag-of-characters model next to nothing.
MIN_TEXTS_PER_LABEL = 25
MIN_HELD_OUT_PER_LABEL = 10  # of validation and test rows, which teach nothing, but set the mean confidence of a label
# On ChnSentiCorp's validation split: C = 1 reaches 89.5%, C = 10 91.8%.
REGULARISATION = 10.0


def distinct_rows(rows: Rows) -> tuple[list[list[int]], np.ndarray]:
    """(rows that share text and label, in order of first appearance; for each such set the number of its text).

    A row that stands ten times must not have ten votes; one text with two labels makes two sets of one group.
    """
    sets, groups = [], []
    for group, positions in enumerate(rows_by_text(rows).values()):
        for label in dict.fromkeys(rows.labels[i] for i in positions):
            sets.append([i for i in positions if rows.labels[i] == label])
            groups.append(group)
    return sets, np.array(groups)


def out_of_fold_probabilities(texts: list[str], labels: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """(N, C): each text's probabilities by a model trained without the text's fold; every label id below C occurs.

    Character 1-3-grams by TF-IDF and logistic regression, five folds with labels spread evenly and rows of one group
    always together. The n-grams and their weights come from all texts, which tells the model nothing of any label and
    is five times faster than once a fold.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.multiclass import OneVsRestClassifier

    rare = 2 if len(texts) > 1000 else 1  # n-grams of a single text are most of all, and help nowhere else
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), min_df=rare, sublinear_tf=True, dtype=np.float32)
    features = vectorizer.fit_transform([clean_text(text) for text in texts])  # (N, n-grams), sparse
    model = LogisticRegression(C=REGULARISATION, solver="liblinear", random_state=seed)
    if labels.max() > 1:
        model = OneVsRestClassifier(model)  # liblinear itself knows two classes
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    return cross_val_predict(model, features, labels, groups=groups, cv=folds, method="predict_proba")


def pooled_probabilities(splits: Mapping[str, Rows], seed: int) -> dict[str, np.ndarray]:
    """Split -> (N, C) of its `distinct_rows`, by models trained on all splits but for the fold that a text is in.

    So a text that stands in two splits is never judged by a model that has learnt its label.
    """
    texts, labels, hashes, ends = [], [], [], []
    for rows in splits.values():
        firsts = [positions[0] for positions in distinct_rows(rows)[0]]
        texts += [rows.texts[i] for i in firsts]
        labels += [rows.labels[i] for i in firsts]
        hashes += [text_hash(rows.texts[i]) for i in firsts]
        ends.append(len(texts))
    groups = np.unique(hashes, return_inverse=True)[1]
    probs = out_of_fold_probabilities(texts, np.array(labels), groups, seed)
    return dict(zip(splits, np.split(probs, ends[:-1]), strict=True))


def find_suspicious(labels: np.ndarray, probs: np.ndarray) -> list[tuple[int, float]]:
    """(position, score) of the probably mislabelled rows, most suspicious first.

    The score is the probability of the label that the row has ("self-confidence"). How many rows
    are listed follows from the estimated rates at which one label stands for the other.
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    scores = get_label_quality_scores(labels, probs)
    found = np.flatnonzero(find_label_issues(labels, probs, n_jobs=1))
    return [(int(i), float(scores[i])) for i in found[np.argsort(scores[found], kind="stable")]]


def suspicious_records(
    rows: Rows, sets: list[list[int]], probs: np.ndarray, found: list[tuple[int, float]], split: str = "train"
) -> list[dict[str, Any]]:
    """One record for each finding: `COLUMNS` that are not for a person, and `row`, counted from 1 in its split.

    `where` are the places in the `file` of the first of its `copies`; a row without a place has its number.
    """
    return [
        {
            "split": split,
            "row": sets[i][0] + 1,
            "file": rows.source,
            "where": _places(rows, sets[i]),
            "text": clean_text(rows.texts[sets[i][0]]),
            "label": rows.label_names[rows.labels[sets[i][0]]],
            "suggested_label": rows.label_names[int(probs[i].argmax())],
            "score": round(score, 6),
            "copies": len(sets[i]),
        }
        for i, score in found
    ]


def _places(rows: Rows, positions: list[int]) -> str:
    shown = [rows.where[i] if rows.where else f"第 {i + 1} 条" for i in positions[:SHOWN_COPIES]]
    return "、".join(shown) + ("……" if len(positions) > SHOWN_COPIES else "")


def write_suspicious(path: Path, records: list[dict[str, Any]]) -> None:
    """`suspicious_labels.csv`; only the header where nothing was found."""
    if records:
        write_csv(path, [{column: record.get(column, "") for column in COLUMNS} for record in records])
    else:
        with atomic_write(path) as file:
            file.write("\ufeff" + ",".join(COLUMNS) + "\r\n")
