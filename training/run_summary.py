"""Words about a run: its plan before the first step, the settings as a file that repeats it, and the next commands."""

import math
from pathlib import Path

import numpy as np

from configs.config_file import CONFIG_FILE, config_text
from configs.lora_config import LoraSettings
from configs.training_config import ADAMW, MACRO_F1, TrainingConfig
from data.labels import named_sentiments
from modeling.adapter_folder import SentimentConfig
from modeling.base_model import lasting_name
from modeling.batching import padded_length
from modeling.devices import Device, best_device
from runtime.atomic_files import atomic_write
from runtime.processes import is_main, world_size
from training.memory_plan import GB, MicroBatchPlan
from training.optimization import is_paged
from training.tokenized_dataset import LengthGroupedSampler, TokenizedRows, rare_labels
from training.trainer import SentimentTrainer, steps_per_epoch, total_steps

FEW_TRAINING_ROWS, FEW_VALIDATION_ROWS = 200, 50
FEW_CUT = 0.01  # share of the rows that may well be cut


def padded_tokens(sampler: LengthGroupedSampler, batch_size: int) -> int:
    """Tokens of one epoch that the model computes, padding included, in the sampler's first order."""
    lengths = sampler.lengths[sampler.order(0)]
    tokens = 0
    for start in range(0, len(lengths), batch_size):
        batch = lengths[start : start + batch_size]
        tokens += len(batch) * padded_length(int(batch.max()))
    return tokens


def describe_plan(config: TrainingConfig, model, tokenized: dict[str, TokenizedRows], trainer: SentimentTrainer) -> str:
    """Model, trainable share, rows, padding, steps and where it all goes, as lines for the terminal; then warnings."""
    train, device = tokenized["train"], best_device()
    trainable, total = model.get_nb_trainable_parameters()
    real, padded = sum(train.lengths), padded_tokens(trainer.sampler, config.batch_size)
    fixed = max(config.max_length, *train.lengths) * len(train)
    rows = "，".join(f"{name} {len(split):,}" for name, split in tokenized.items())
    precision = "bf16 混合精度" if device.bf16 else "float32"
    kind = "QLoRA（NF4 4 比特）" if config.use_qlora else "LoRA"
    cut = describe_cut(config, train, trainer.sampler, model.config.max_position_embeddings)
    processes = f"，{world_size()} 个进程" if world_size() > 1 else ""
    lines = [
        f"模型      {config.model_name} + {kind}，{config.head}，{device.kind}，{precision}",
        f"可训练    {trainable:,} / {total:,} 个参数（{trainable / total:.2%}）",
        f"数据      {rows} 条",
        f"每轮      {real:,} token，另有填充 {1 - real / padded:.1%}"
        f"（都填到 {config.max_length} 则为 {1 - real / fixed:.1%}）",
        *([cut] if cut else []),
        f"步数      共 {total_steps(config, len(train)):,} 步，每轮 {steps_per_epoch(config, len(train)):,} 步，"
        f"每步 {config.batch_size} × {config.gradient_accumulation_steps} 条{processes}",
        f"{'显存' if device.kind == 'cuda' else '内存'}      {describe_micro_batches(trainer.plan, device)}",
        f"写到      {Path(config.output_dir).resolve()}",
    ]
    if config.use_qlora and device.kind == "cpu":
        lines.append("注意      没有 CUDA：4 比特在 CPU 上可以运行，但比不加 --use_qlora 慢得多")
    if config.use_qlora and device.kind == "mps":
        lines.append("注意      bitsandbytes 的 4 比特在 MPS 上先还原再乘：省内存但慢；还没有在 Mac 上试过")
    if is_paged(config.optim or ADAMW) and device.kind == "cpu":
        lines.append(f"注意      没有 CUDA：--optim {config.optim} 在 CPU 上不分页，其余照算")
    if device.kind == "cuda" and not device.bf16:
        lines.append("注意      Ampere 之前的显卡没有 bf16，按 float32 计算：慢，权重占两倍显存；不够时加 --use_qlora")
    lines += [f"注意      {warning}" for warning in data_warnings(config, tokenized, trainer.best.by)]
    return "\n".join(lines)


def data_warnings(config: TrainingConfig, tokenized: dict[str, TokenizedRows], best_by: str) -> list[str]:
    """Sentences on data that a training learns little from, or an evaluation tells little with."""
    train, validation = tokenized["train"], tokenized["validation"]
    found = []
    if len(train) < FEW_TRAINING_ROWS:
        found.append(
            f"训练只有 {len(train)} 条（最好 {FEW_TRAINING_ROWS} 条以上）：结果很随种子而变，"
            "加 --seeds 1,2,3 看得出差多少"
        )
    if len(validation) < FEW_VALIDATION_ROWS:
        found.append(
            f"验证只有 {len(validation)} 条（最好 {FEW_VALIDATION_ROWS} 条以上）：最好的一步、温度和阈值都由它定，"
            "会定得很粗"
        )
    if rare := rare_labels(train.labels):
        names = "、".join(f"{train.label_names[label]}（{share:.1%}）" for label, share in rare.items())
        score = "宏平均 F1" if best_by == MACRO_F1 else "准确率"
        weights = "" if config.class_weights == "balanced" else "；也可以加 --class_weights balanced，让各种标签一样重"
        found.append(
            f"标签 {names} 在训练集里很少，准确率看不出它判得好不好。最好的一步按{score}挑（--best_by）{weights}"
        )
    return found


def describe_cut(config: TrainingConfig, train: TokenizedRows, sampler: LengthGroupedSampler, most: int) -> str | None:
    """A line on the rows that are cut at `--max_length`, and what reading more of them would cost; None without any.

    `most` is the number of tokens that the base can read.
    """
    lengths, full = np.array(train.lengths), np.array(train.full_lengths)  # (N,), with the prompt
    cut = full > lengths
    if not cut.any():
        return None
    line = f"截断      {cut.mean():.1%} 的训练评论超过 {config.max_length} 个 token（--max_length），后面的不读"
    # The shortest round length that leaves at most one row in a hundred cut.
    prompt = int(lengths[cut][0]) - config.max_length
    wanted = float(np.quantile(full, 1 - FEW_CUT, method="higher")) - prompt
    larger = min(padded_length(math.ceil(wanted), 64), most - prompt)
    if cut.mean() <= FEW_CUT or larger <= config.max_length:
        return line
    longer = LengthGroupedSampler(np.minimum(full, larger + prompt), sampler.group_size, sampler.seed)
    read = longer.lengths.sum() / lengths.sum() - 1
    computed = padded_tokens(longer, config.batch_size) / padded_tokens(sampler, config.batch_size) - 1
    left = (full > larger + prompt).mean()
    return (
        f"{line}；\n          改成 {larger} 则只有 {left:.1%}，每轮多读 {read:.1%} 的 token，每步大约慢 {computed:.0%}"
    )


def describe_micro_batches(plan: MicroBatchPlan, device: Device) -> str:
    """The way a batch is computed, and the memory that it is estimated to take of what there is."""
    text = "整批一次算完"
    if plan.max_tokens is not None:
        text = f"每次最多算 {plan.max_tokens:,} 个 token，更长的批分几次（梯度相同）"
    text += "，反向时重算激活" if plan.activation_checkpointing else "，不重算激活"
    if plan.limit is not None:
        text += f"；估计最多用 {plan.needed / GB:.1f} GB，可用 {plan.limit / GB:.1f} GB"
    if plan.exceeds_limit:
        text += "：多半不够，先试试看"
    return text


def sentiment_config(config: TrainingConfig, labels: list[str], commit: str | None) -> SentimentConfig:
    """The settings that an adapter is loaded with; `commit` is that of its base on the hub."""
    return SentimentConfig(
        base_model=lasting_name(config.model_name),
        base_revision=commit,
        labels=labels,
        max_length=config.max_length,
        quantization="nf4" if config.use_qlora else None,
        head=config.head,
        prompt_template=config.template_for(labels),
        label_words=config.words_for(labels),
        ordinal=config.ordinal,
        sentiments=named_sentiments(config.negative_label, config.positive_label, labels),
    )


def next_commands(config: TrainingConfig, has_test: bool) -> str:
    """The commands to type after the training."""
    flags = "" if config.output_dir == "./outputs" else f" --model_path {Path(config.output_dir) / 'lora_adapter'}"
    test = "" if has_test else " --test_file 你的测试文件"
    return "\n".join([
        "接下来：",
        f"  python inference.py --interactive{flags}",
        f"  python model_evaluation/run_full_eval.py{flags}{test}",
    ])  # fmt: skip


def write_config(config: TrainingConfig, lora: LoraSettings) -> None:
    """Write `OUTPUT_DIR/config.yaml` for `train.py --config`."""
    if is_main():
        with atomic_write(Path(config.output_dir) / CONFIG_FILE) as file:
            file.write(config_text(vars(config) | vars(lora)))
