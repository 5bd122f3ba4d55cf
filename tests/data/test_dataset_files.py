"""Of a data set's folder only what lies in it is opened, whatever its card says; splits are found by the usual names.

pytest tests/data/test_dataset_files.py
"""

import json
import socket
import threading

import datasets
import pytest
from loopback_hub import LoopbackHub, hub_environment, lay_out_dataset
from small import assert_one_message, change_json, run_main, run_script, small_reviews, write_jsonl

import eval as eval_script
from data.data_loader import load_hub_dataset
from data.dataset import Rows
from runtime.errors import UserError


class Listener:
    """A port of this machine that notes who connects and hangs up: the other machine that nothing may ask."""

    def __enter__(self):
        self.asked = 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self.listen, daemon=True).start()
        return self

    def listen(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.asked += 1
            connection.close()

    def __exit__(self, *_):
        self.socket.close()


@pytest.fixture
def listener():
    with Listener() as listener:
        yield listener


@pytest.fixture
def folder(tmp_path):
    """A data set in a folder, and beside it a file that is none of its own."""
    (tmp_path / "data_set").mkdir()
    write_jsonl(tmp_path / "data_set" / "train.jsonl", small_reviews(40))
    write_jsonl(tmp_path / "outside.jsonl", [{"text": f"外面的第{i}条", "label": i % 2} for i in range(40)])
    return tmp_path / "data_set"


def write_card(folder, data_files, name="README.md", **more):
    card = json.dumps({"configs": [{"config_name": "default", "data_files": data_files, **more}]})  # JSON is YAML too
    (folder / name).write_text(f"---\n{card}\n---\n" if name == "README.md" else card, encoding="utf-8")


POINTING_OUT = [
    "ftp://{address}/train.jsonl",
    "http://{address}/train.jsonl",
    "zip://train.jsonl::http://{address}/train.zip",
    "hf://datasets/other/data/train.jsonl",
    "{outside}",
    "file://{outside}",
    "../outside.jsonl",
    "inner/../../outside.jsonl",
    "..\\outside.jsonl",
    "C:\\outside.jsonl",
    "\\\\server\\share\\outside.jsonl",
]


@pytest.mark.parametrize("pattern", POINTING_OUT)
@pytest.mark.parametrize("name", ["README.md", ".huggingface.yaml"])
def test_a_card_that_points_out_of_the_folder_is_refused_and_nothing_is_asked(folder, listener, name, pattern):
    pattern = pattern.format(address=listener.address, outside=folder.parent / "outside.jsonl")
    write_card(folder, [{"split": "train", "path": ["train.jsonl", pattern]}], name)
    with pytest.raises(UserError, match="指向数据集之外"):
        load_hub_dataset(str(folder))
    assert listener.asked == 0


def test_neither_may_the_folder_of_a_config_lie_outside(folder):
    write_card(folder, "outside.jsonl", data_dir="..")
    with pytest.raises(UserError, match=r"指向数据集之外的 '\.\.'"):
        load_hub_dataset(str(folder))


def test_the_data_set_that_a_strangers_adapter_names(listener, adapter_copy, tmp_path):
    """Evaluating an adapter reads the data of its run_info.json: from the hub, and offline from the cache."""
    reviews = small_reviews(40)
    rows = Rows([row["text"] for row in reviews], [row["label"] for row in reviews])
    served = lay_out_dataset(tmp_path, {"train": rows}, "stranger/data")
    write_card(served, f"ftp://{listener.address}/train.parquet")
    info = json.loads((adapter_copy / "run_info.json").read_text(encoding="utf-8"))
    change_json(
        adapter_copy / "run_info.json", config=info["config"] | {"dataset": "stranger/data", "train_file": None}
    )
    command = ["eval.py", "--model_path", adapter_copy, "--output_dir", tmp_path / "out"]
    with LoopbackHub(tmp_path) as hub:
        environment = hub_environment(hub.url, tmp_path / "home")
        assert_one_message(run_script(*command, env={"HF_HUB_OFFLINE": ""} | environment), "stranger/data", "ftp://")
    assert_one_message(run_script(*command, env={"HF_HUB_OFFLINE": "1"} | environment), "stranger/data", "ftp://")
    assert listener.asked == 0


def test_a_column_that_calls_itself_an_image_is_not_opened(folder, listener):
    import pyarrow
    from pyarrow import parquet

    images = [{"bytes": None, "path": f"http://{listener.address}/{i}.png"} for i in range(40)]
    stored = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table({"text": pyarrow.array(images, stored), "label": [i % 2 for i in range(40)]})
    features = {"text": {"_type": "Image"}, "label": {"dtype": "int64", "_type": "Value"}}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, folder / "train.parquet")
    with pytest.raises(UserError, match=r"(?s)第 1 行：text 应为文本.*共 40 行有问题"):
        load_hub_dataset(str(folder))
    assert listener.asked == 0


def test_nobody_is_told_what_is_read(folder, monkeypatch):
    told = []
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", True)
    monkeypatch.setattr(datasets.load, "get_session", lambda: told.append("session"))
    load_hub_dataset(str(folder))
    assert not told


@pytest.mark.parametrize(
    "names",
    [
        (
            "data/train-00000-of-00001.parquet",
            "data/validation-00000-of-00001.parquet",
            "data/test-00000-of-00001.parquet",
        ),
        ("train.jsonl", "valid.jsonl", "test.jsonl"),
        ("train.csv", "dev.csv", "test.csv"),
        ("reviews_train.tsv", "reviews-val.tsv", "reviews.eval.tsv"),
        ("training/part [1].json", "validation/part [1].json", "test/part [1].json"),
    ],
)
def test_splits_are_found_by_the_usual_names(tmp_path, names):
    import pandas

    folder = tmp_path / "the folder [of] a data set"
    reviews = small_reviews(60)
    parts = dict(zip(names, (reviews[:30], reviews[30:45], reviews[45:]), strict=True))
    for name, part in parts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        frame = pandas.DataFrame(part)
        if name.endswith("parquet"):
            frame.to_parquet(folder / name)
        elif name.endswith(("json", "jsonl")):
            frame.to_json(folder / name, orient="records", lines=name.endswith("jsonl"), force_ascii=False)
        else:
            frame.to_csv(folder / name, index=False, sep="\t" if name.endswith("tsv") else ",")
    (folder / "dataset_infos.json").write_text("{}", encoding="utf-8")
    (folder / "README.md").write_text("no header, no card\n", encoding="utf-8")
    splits = load_hub_dataset(str(folder))
    assert [splits[name].texts for name in ("train", "validation", "test")] == [
        [row["text"] for row in part] for part in parts.values()
    ]


def test_several_files_make_one_split_and_other_kinds_are_passed_over(folder):
    write_jsonl(folder / "train-2.jsonl", small_reviews(60)[40:])
    (folder / "train.csv").write_text("text,label\n不读,1\n", encoding="utf-8")
    splits = load_hub_dataset(str(folder))
    read = {text for rows in splits.values() for text in rows.texts}
    assert read == {row["text"] for row in small_reviews(60)}


def test_a_card_may_name_files_of_the_folder(folder):
    (folder / "train.jsonl").rename(folder / "a.jsonl")
    write_jsonl(folder / "b.jsonl", small_reviews(60)[40:])
    write_card(folder, [{"split": "train", "path": "a.*"}, {"split": "test", "path": ["b.jsonl"]}])
    splits = load_hub_dataset(str(folder))
    assert len(splits["test"]) == 20 and len(splits["train"]) + len(splits["validation"]) == 40


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ("---\nconfigs: [\n---\n", "读不出来"),
        ("---\nconfigs: 3\n---\n", "应为一列配置"),
        ("---\nconfigs: [{data_files: [{split: train}]}]\n---\n", "写得不对"),
        ("---\nconfigs: [{data_files: 'nothing*'}]\n---\n", "却没有"),
        ("---\nconfigs: [{data_files: '**.jsonl[', config_name: default}]\n---\n", "却没有"),
        ("---\nconfigs: [{config_name: a, data_files: a*}, {config_name: b, data_files: b*}]\n---\n", "几种配置"),
    ],
)
def test_a_card_that_is_wrong(folder, card, words, tmp_path, plain_adapter):
    (folder / "README.md").write_text(card, encoding="utf-8")
    command = ["--model_path", plain_adapter, "--dataset", folder, "--output_dir", tmp_path / "out"]
    assert_one_message(run_main(eval_script.main, *command), words, str(folder))


def test_a_folder_without_data(tmp_path):
    with pytest.raises(UserError, match=r"没有 \.parquet"):
        load_hub_dataset(str(tmp_path))
