"""Configurations: whatever is given becomes valid JSON, bounded, without secrets, and nothing raises."""

import argparse
import json
import sys
import time
import types
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracker_client.values.configuration import CYCLE, VALUES_MAX, read_configuration
from tracker_client.values.secret_names import is_secret, is_secret_name, mask_secrets
from tracker_protocol import limits


def recorded(config):
    read = read_configuration(config)
    assert read is not None
    values = json.loads(read.document, parse_constant=lambda token: pytest.fail(f"{token} is not JSON"))
    assert values == read.values
    assert len(read.document.encode()) <= limits.CONFIG_MAX_BYTES
    return values


class Optimiser(Enum):
    ADAM = "adam"
    OTHER = object()


class Level(str, Enum):
    HIGH = "high"


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class Net:
    width: int = 3
    layers: list[int] = field(default_factory=lambda: [1, 2])


@dataclass
class Config:
    net: Net = field(default_factory=Net)
    lr: float = 0.1


class Plain:
    def __init__(self):
        self.lr = 0.5
        self._hidden = 1
        self.inner = types.SimpleNamespace(depth=2)


class Described(Plain):
    def __repr__(self):
        return "Described()"


def test_dataclasses_namespaces_and_plain_objects_give_their_fields():
    assert recorded(Config()) == {"net": {"width": 3, "layers": [1, 2]}, "lr": 0.1}
    assert recorded(argparse.Namespace(lr=1, net=Net())) == {"lr": 1, "net": {"width": 3, "layers": [1, 2]}}
    assert recorded(Plain()) == {"lr": 0.5, "inner": {"depth": 2}}
    assert recorded(OrderedDict(a=Point(1, 2))) == {"a": {"x": 1, "y": 2}}


def test_a_nested_object_that_describes_itself_is_its_text():
    assert recorded(Described())["lr"] == 0.5
    assert recorded({"it": Described(), "other": Plain()})["it"] == "Described()"
    assert recorded({"loss": object()}) == {"loss": "<object object>"}  # its address would differ by rank


def test_attrs_and_both_versions_of_pydantic():
    attr = pytest.importorskip("attr")
    pydantic = pytest.importorskip("pydantic")
    v1 = pytest.importorskip("pydantic.v1")
    made_of_attrs = attr.make_class("Made", ["x", "y"])(1, 2)

    class New(pydantic.BaseModel, extra="allow"):
        lr: float = 0.1
        made: Any = made_of_attrs
        login: pydantic.SecretStr = pydantic.SecretStr("hidden-in-v2")

    class Old(v1.BaseModel):
        depth: int = 3
        login: v1.SecretStr = v1.SecretStr("hidden-in-v1")

    assert recorded({"new": New(more=1), "old": Old()}) == {
        "new": {"lr": 0.1, "made": {"x": 1, "y": 2}, "login": "****", "more": 1},
        "old": {"depth": 3, "login": "****"},
    }
    assert recorded(New())["lr"] == 0.1


def test_omegaconf_is_resolved_where_it_can_be():
    omegaconf = pytest.importorskip("omegaconf")
    config = omegaconf.OmegaConf.create(
        {"a": 1, "b": "${a}", "c": "${nowhere}", "d": "???", "e": ["${a}", {"f": "${b}"}, "???"]}
    )
    assert recorded(config) == {
        "a": 1, "b": 1, "c": "${nowhere}", "d": "???", "e": [1, {"f": 1}, "???"],
    }  # fmt: skip


def test_arrays_and_scalars_of_numpy_and_torch():
    numpy, torch = pytest.importorskip("numpy"), pytest.importorskip("torch")
    assert recorded(
        {
            "a": numpy.float32(0.5), "b": numpy.int64(3), "c": torch.tensor(2.5, requires_grad=True),
            "d": numpy.arange(3), "e": numpy.zeros((2, 1_000)), "f": torch.float32, "g": numpy.float64("nan"),
            "h": torch.device("cpu"), "i": torch.empty(2, device="meta"),
        }
    ) == {
        "a": 0.5, "b": 3, "c": 2.5, "d": [0, 1, 2], "e": "<ndarray of shape (2, 1000), float64>",
        "f": "torch.float32", "g": "nan", "h": "cpu", "i": "<Tensor>",
    }  # fmt: skip


def test_the_rest_of_what_configurations_hold():
    moment = datetime(2026, 1, 2, 3, 4, tzinfo=timezone.utc)
    assert recorded(
        {
            "path": PurePosixPath("/x"), "enum": Optimiser.ADAM, "odd": Optimiser.OTHER, "level": Level.HIGH,
            "when": moment, "day": date(2026, 1, 2), "wait": timedelta(seconds=1), "set": {3, 1, 2},
            "raw": b"\xffab", "inf": float("-inf"), "huge": 2**70, 7: None, Level.HIGH: 1, "kind": Net,
            "call": recorded, "module": sys,
        }
    ) == {
        "path": "/x", "enum": "adam", "odd": "OTHER", "level": "high", "when": "2026-01-02T03:04:00+00:00",
        "day": "2026-01-02", "wait": "0:00:01", "set": [1, 2, 3], "raw": "\\xffab", "inf": "-inf",
        "huge": str(2**70), "7": None, "high": 1, "kind": f"{__name__}.Net", "call": f"{__name__}.recorded",
        "module": "<module 'sys' (built-in)>",
    }  # fmt: skip


def test_cycles_and_depth_end():
    config = {"a": 1}
    config["me"] = config
    config["twice"] = [[1], [1]]
    deep = []
    for _ in range(10_000):
        deep = [deep]
    assert recorded({**config, "deep": deep})["me"] == {"a": 1, "me": CYCLE, "twice": [[1], [1]]}
    shared = Net()
    assert recorded({"a": shared, "b": shared})["b"] == {"width": 3, "layers": [1, 2]}


def test_secrets_are_masked_by_their_names_and_in_texts():
    config = {
        "api_key": "a", "wandb": {"apiKey": "b", "password": "12345", "url": "https://me:c@host/x"},
        "HF_TOKEN": "d", "credentials": {"user": "x", "value": "e"}, "note": "Bearer abcdef",
        "max_tokens": 512, "pad_token": "<pad>", "num_key_value_heads": 8, "key": "value", "use_token": True,
        "tokenizer": "gpt2",
    }  # fmt: skip
    assert recorded(config) == {
        "api_key": "****", "wandb": {"apiKey": "****", "password": "****", "url": "https://****@host/x"},
        "HF_TOKEN": "****", "credentials": {"user": "****", "value": "****"}, "note": "Bearer ****",
        "max_tokens": 512, "pad_token": "<pad>", "num_key_value_heads": 8, "key": "value", "use_token": True,
        "tokenizer": "gpt2",
    }  # fmt: skip
    assert not any(map(is_secret_name, ("monkey", "keyboard", "passes", "tokens_per_batch", "author", "")))


def test_only_texts_are_masked():
    config = {
        "password": 12345, "use_auth": True, "token": None, "secret": 0.5,
        "auth": {"retries": 3, "on": False}, "secrets": ["a", 1, None],
    }  # fmt: skip
    assert recorded(config) == {**config, "secrets": ["****", 1, None]}


def test_a_value_is_judged_by_itself_and_not_by_what_follows():
    assert mask_secrets("key=name commit 0123456789abcdef0123") == "key=name commit 0123456789abcdef0123"


@pytest.mark.parametrize(
    "text", ["key" * 60_000, "a=" * 90_000, "--key " * 30_000, "token:" * 30_000, "key=" * 45_000]
)
def test_a_long_text_is_searched_for_secrets_in_little_time(text):
    begin = time.process_time()
    mask_secrets(text)
    assert time.process_time() - begin < 5.0


def test_a_list_of_arguments_is_masked_behind_the_options_that_name_secrets():
    arguments = ["train.py", "--password", "hunter2", "--token=x", "--lr", 0.1, "-v", "--max_tokens", "512"]
    arguments += ["--hosts", "a", "--api-key", "0123456789abcdef0123", "more"]
    assert recorded({"argv": arguments})["argv"] == [
        "train.py", "--password", "****", "--token=****", "--lr", 0.1, "-v", "--max_tokens", "512",
        "--hosts", "a", "--api-key", "****", "****",
    ]  # fmt: skip
    assert recorded({"layers": ["-x", "y"], "words": ["password", "b"]}) == {
        "layers": ["-x", "y"], "words": ["password", "b"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_key", "observation.images.top"),
        ("sort_key", "name"),
        ("keypoints", "coco17AndManyMoreDigits12345"),
        ("max_tokens", "512"),
        ("eos_token", "</s>"),
        ("tokenizer", "meta-llama/Llama-3.1-8B-Instruct"),
        ("author", "A. N. Other"),
    ],
)
def test_names_and_keys_of_data_stay_in_configuration_and_text(name, value):
    assert recorded({name: value}) == {name: value}
    assert not is_secret(name, value)
    assert mask_secrets(f"--{name} {value} {name}={value}") == f"--{name} {value} {name}={value}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_key", "Zx81kQp02LmN7vTr"),
        ("openai_key", "sk-short"),
        ("wandbKey", "0123456789abcdef0123456789abcdef01234567"),
        ("key", "550e8400-e29b-41d4-a716-446655440000"),
        ("PASSWORD", "x"),
        ("db_passwd", "x"),
        ("client_secret", "x"),
        ("gcp_credentials", "x"),
        ("authToken", "x"),
        ("auth", "x"),
        ("hf_token", "x"),
    ],
)
def test_secrets_are_recognised_alike_in_configuration_and_text(name, value):
    assert recorded({name: value}) == {name: "****"}
    assert mask_secrets(f"{name}={value}") == f"{name}=****"
    assert mask_secrets(f"--{name} {value}") == f"--{name} ****"


def test_what_does_not_fit_leaves_out_the_largest_values_and_names_them():
    read = read_configuration({"lr": 1, "net": {"big": "x" * 150_000, "small": 2}, "words": ["y" * 90_000]})
    assert read.values == {"lr": 1, "net": {"small": 2}, "words": ["y" * 90_000]}
    assert "net.big (150" in read.warning
    assert str(limits.CONFIG_MAX_BYTES) in read.warning
    many = read_configuration(
        {"a": 1, "table": list(range(VALUES_MAX + 1)), "wide": dict.fromkeys(range(10**6))}
    )
    assert many.values["table"] == f"<list of {VALUES_MAX + 1}>"
    assert many.values["a"] == 1


def test_what_has_no_names_is_none():
    for value in (3, "text", None, [1], object(), Net, b"x", float("nan")):
        assert read_configuration(value) is None


class Raising:
    def __init__(self, error):
        object.__setattr__(self, "error", error)

    def __getattribute__(self, name):
        raise object.__getattribute__(self, "error")

    def __str__(self):
        raise RecursionError

    __hash__ = object.__hash__


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(max_size=8),
    st.complex_numbers(), st.datetimes(), st.timedeltas(), st.decimals(), st.uuids(), st.just(Path("x")),
    st.sampled_from(Optimiser),
    st.builds(Raising, st.sampled_from([ValueError(), KeyError(), RuntimeError()])), st.builds(object),
    st.sampled_from([int, len, json, Net]),
)  # fmt: skip
KEYS = st.one_of(
    st.text(), st.integers(), st.floats(), st.none(), st.tuples(st.text()), st.binary(max_size=4)
)
ANY = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(KEYS, inner, max_size=4),
        st.tuples(inner, inner),
        st.builds(Net, inner),
        st.builds(lambda value: argparse.Namespace(value=value), inner),
        st.frozensets(st.integers(), max_size=4),
    ),
    max_leaves=40,
)


@given(config=st.dictionaries(KEYS, ANY, max_size=5))
@settings(deadline=None, max_examples=80)
def test_any_nesting_is_valid_json_and_never_raises(config):
    assert isinstance(recorded(config), dict)


def test_times_of_numpy_are_their_iso_text_and_long_doubles_are_floats():
    np = pytest.importorskip("numpy")
    config = {
        "at": np.datetime64("2026-01-02T03:04:05", "ns"),
        "days": np.array(["2026-01-02", "2026-01-03"], "datetime64[ns]").astype("datetime64[D]"),
        "took": np.timedelta64(5, "ns"),
        "long": np.longdouble("0.5"),
    }
    assert read_configuration(config).values == {
        "at": "2026-01-02T03:04:05.000000000", "days": ["2026-01-02", "2026-01-03"],
        "took": "5 nanoseconds", "long": 0.5,
    }  # fmt: skip
