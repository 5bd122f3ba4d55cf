"""Fine-tune a Chinese sentiment classifier with LoRA or QLoRA, from top to bottom.

    python train.py                                   # Qwen2.5-1.5B, LoRA, ChnSentiCorp; one GPU
    python train.py --use_qlora                       # the same with a 4-bit base, for 4 to 6 GB
    python train.py --preset tiny                     # the embedded small model and reviews; a laptop
    python train.py --train_file my.csv --text_column 评论 --label_column 标签
    python train.py --seeds 1,2,3                     # three times, with the mean and the range in the end
    python train.py --init_adapter outputs/lora_adapter --train_file new.csv --output_dir outputs_new

Killed? Run the same command again: it goes on from the newest whole checkpoint.
"""

import time
from pathlib import Path
from typing import Any

from configs.command_line import help_text, parse_config
from configs.lora_config import LoraSettings
from configs.training_config import TrainingConfig
from runtime.errors import run_script
from runtime.file_lock import output_lock
from runtime.processes import is_main


def main() -> None:
    config, lora = parse_config(
        [TrainingConfig, LoraSettings],
        None,
        description=help_text(
            "用 LoRA 或 QLoRA 微调一个中文情感分类器。被中断后，重新运行同一命令即接着训练。", __doc__
        ),
        presets=True,
        inherit=settings_of_initial_adapter,
    )
    print("正在载入程序库……", flush=True)
    from runtime.distributed import connect_processes, refuse_sharding

    refuse_sharding()
    connect_processes()  # under torchrun or accelerate launch: the other processes
    with output_lock(config.output_dir):
        if config.seeds:
            from training.seeds import train_seeds

            train_seeds(config, lora, train)
        else:
            train(config, lora)


def settings_of_initial_adapter(given: dict[str, Any]) -> dict[str, Any]:
    """Defaults that come from `--init_adapter`."""
    if "init_adapter" not in given:
        return {}
    from training.starting_point import inherited_settings

    return inherited_settings(given)


def train(config: TrainingConfig, lora: LoraSettings, keep_finished: bool = False) -> dict[str, Any]:
    """Train one adapter, from the data to the folder that `SentimentPredictor` loads; returns its run_info.json.

    With `keep_finished` a run that is finished already is left as it is.
    """
    started = time.time()

    # Heavy imports stand here, so that --help and a mistyped flag answer at once.
    import torch

    from data.data_loader import fingerprints, load_splits
    from data.labels import describe_labels
    from model_evaluation.metrics.terminal_table import metrics_table
    from modeling.adapter_folder import save_adapter
    from modeling.lora import build_for_training
    from runtime.run_info import run_info
    from training.callbacks import log_lines
    from training.checkpoints import mark_finished
    from training.run_summary import describe_plan, next_commands, sentiment_config, write_config
    from training.starting_point import find_start
    from training.tokenized_dataset import tokenize
    from training.trainer import build_trainer

    # Data: texts and labels, the same each time.
    print("读取数据……", flush=True)
    splits = load_splits(config)
    labels, data = splits["train"].label_names, fingerprints(splits)

    # Is there an interrupted run of just these settings to go on with?
    start, run, checkpoint = find_start(config, lora, data, labels, keep_finished)
    if start.finished:
        return start.finished

    # Model: the frozen base, and beside its linear layers small trained matrices: W x + (alpha / r) B A x.
    print(f"载入基座 {config.model_name}……", flush=True)
    torch.manual_seed(config.seed)  # before the head and A are drawn
    model, tokenizer = build_for_training(config, lora, labels, start.commit)
    start.load_into(model)

    # Tokens, Trainer, and what is going to happen.
    template = config.template_for(labels)
    tokenized = {name: tokenize(rows, tokenizer, config.max_length, template) for name, rows in splits.items()}
    trainer = build_trainer(config, model, tokenizer, tokenized, run, checkpoint)
    print(describe_labels(splits["train"]))
    print(describe_plan(config, model, tokenized, trainer), flush=True)
    write_config(config, lora)

    # Train; then back to the adapter that was best on the validation rows.
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    model = trainer.finished_model()

    # Predict once, measure, and save: the adapter folder appears whole or not at all.
    measured = measure(trainer, tokenized, splits)
    seconds = time.time() - started + trainer.loss_sum.seconds_before
    info = run_info(configs=[config, lora], run=run, data=data, seconds=seconds, metrics=measured)
    info["best"] = {"step": trainer.best.step, "by": trainer.best.by, "score": trainer.best.score}
    adapter = Path(config.output_dir) / "lora_adapter"
    if is_main():
        sentiment = sentiment_config(config, labels, start.commit)
        log = log_lines(trainer.state.log_history)
        save_adapter(
            adapter, model, tokenizer, sentiment, splits["train"].texts, info, start.seen, log, config.overwrite
        )
        mark_finished(Path(config.output_dir), run)
        trainer.best.remove()

    print(metrics_table(measured))
    print(f"\n最好的适配器（第 {trainer.best.step} 步，{trainer.best.reason}）在 {adapter}，用时 {seconds:.0f} 秒。")
    print(next_commands(config, has_test="test" in splits))
    return info


def measure(trainer, tokenized, splits) -> dict[str, dict[str, Any]]:
    """Metrics on each split but the training rows."""
    from model_evaluation.metrics.classification import classification_metrics
    from prediction.prediction_set import Predictions

    measured = {}
    for name in [name for name in splits if name != "train"]:
        logits = trainer.logits_of(tokenized[name], f"预测 {name}")
        predictions = Predictions(splits[name].texts, logits, splits[name].labels)
        measured[name] = classification_metrics(predictions, splits[name].label_names)
    return measured


if __name__ == "__main__":
    run_script(main)
