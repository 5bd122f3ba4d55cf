"""The form of an evaluation step, and the running of one or several of them.

    evaluation = Evaluation(config)
    seconds = run_steps(evaluation, [MetricsStep(), ConfidenceStep()])

Every step first says which texts it needs; the model then reads all of them, each once; then the steps compute.
"""

import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from configs.command_line import parse_config
from configs.evaluation_config import StepConfig
from model_evaluation.evaluation import Evaluation
from runtime.errors import UserError, is_out_of_memory, out_of_memory_message


class Step:
    """One step of an evaluation, which writes one file. The scripts beside this file hold the subclasses.

    name: the step's name for `--steps`
    title: the step's name for people
    file_name: the file that it writes into the output folder
    script: the words after `python` that make this file alone
    """

    name: str
    title: str
    file_name: str
    script: tuple[str, ...]

    def required_texts(self, evaluation: Evaluation) -> list[str]:
        """All texts whose predictions `run` looks up, repeats included: the evaluated rows, unless overridden."""
        return evaluation.rows.texts

    def run(self, evaluation: Evaluation) -> str:
        """Write the file from cached predictions; returns the lines for the terminal."""
        raise NotImplementedError


def run_single(step: Step, description: str) -> None:
    """The script of one step: flags, `--help` with this description, the step. Its errors go to the caller."""
    (config,) = parse_config([StepConfig], None, description=description)
    print("正在载入……", flush=True)
    run_step(step, Evaluation(config))


def run_step(step: Step, evaluation: Evaluation) -> None:
    """Run one step, with the model on what it needs."""
    evaluation.load([step.file_name])
    predict_once(evaluation, step.required_texts(evaluation))
    print(step.run(evaluation))
    print(f"\n结果写在 {evaluation.output / step.file_name}")
    evaluation.publish()


def run_steps(evaluation: Evaluation, steps: list[Step]) -> dict[str, float]:
    """Run all steps; returns name -> seconds of those that are done.

    A step that fails is noted in `evaluation.failures`, and the others go on.
    """
    # One run of the model over the texts of all steps: each distinct one is read once.
    texts: list[str] = []
    for step in steps:
        with _noted_failure(evaluation, step):
            texts += step.required_texts(evaluation)
    if texts:
        predict_once(evaluation, texts)

    seconds = {}
    for number, step in enumerate(steps, 1):
        print(f"\n[{number}/{len(steps)}] {step.title}", flush=True)
        if step.name in evaluation.failures:
            print(f"跳过：{evaluation.failures[step.name]}", flush=True)
            continue
        start = time.perf_counter()
        with _noted_failure(evaluation, step):
            print(step.run(evaluation), flush=True)
            seconds[step.name] = time.perf_counter() - start
    return seconds


def predict_once(evaluation: Evaluation, texts: list[str]) -> None:
    """Run the model over the distinct texts that are not in the cache, and write the cache down."""
    evaluation.cache.predict_missing(texts, progress="预测")
    evaluation.cache.save(evaluation.rows)
    counts = evaluation.cache.counts()
    reused = counts["distinct_texts"] - counts["predicted_texts"]
    print(
        f"需要 {counts['requested_texts']:,} 个回答，不同的文本 {counts['distinct_texts']:,} 条："
        f"模型读了 {counts['predicted_texts']:,} 条（{counts['seconds']:.1f} 秒），沿用上次的预测 {reused:,} 条",
        flush=True,
    )


@contextmanager
def _noted_failure(evaluation: Evaluation, step: Step) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever it is, the other steps can still be done
        message = str(error) or type(error).__name__
        if is_out_of_memory(error):
            message = out_of_memory_message(error)
        elif not isinstance(error, UserError):
            traceback.print_exc()
        evaluation.failures[step.name] = message
        print(f"「{step.title}」失败：{evaluation.failures[step.name]}", file=sys.stderr, flush=True)
