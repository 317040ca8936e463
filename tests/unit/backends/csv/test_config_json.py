"""config.json: merged key by key, and the same after a redelivery."""

import json

import pytest


def test_config_is_merged_key_by_key_into_what_is_there(ledger):
    ledger.add({"model": {"layers": 1}})
    ledger.add({"model": {"width": 3}})
    ledger.add({"lr": "<object>"})
    backend = ledger.opened()
    ledger.deliver(backend, 1)
    (ledger.outdir / "config.json").write_text('{"seed": 1, "model": {"layers": 2}}')  # somebody's edit
    ledger.deliver(backend, 2)
    backend.close()
    text = (ledger.outdir / "config.json").read_text()
    assert json.loads(text) == {"seed": 1, "model": {"width": 3}, "lr": "<object>"}
    assert text.startswith('{\n  "seed"')


def test_config_delivered_again_is_the_same(ledger):
    ledger.add({"a": 1, "b": 1})
    ledger.add({"b": 2})
    ledger.deliver_all()
    before = (ledger.outdir / "config.json").read_bytes()
    backend = ledger.opened()
    backend.deliver(ledger.entries, ledger.set_state)
    backend.close()
    assert (ledger.outdir / "config.json").read_bytes() == before


@pytest.mark.parametrize("found", ["", "{", "[1]", "\xff", "[" * 100_000])
def test_a_config_that_cannot_be_read_is_replaced(ledger, found):
    ledger.add({"a": 1})
    ledger.deliver_all()
    (ledger.outdir / "config.json").write_text(found, encoding="latin-1")
    ledger.add({"a": "\ud800"})
    backend = ledger.opened()
    ledger.deliver(backend, 1)
    backend.close()
    assert json.loads((ledger.outdir / "config.json").read_text()) == {"a": "\ud800"}


def test_a_config_that_is_another_programs_stays_as_it_is(ledger):
    ledger.outdir.mkdir()
    (ledger.outdir / "config.json").write_text('{"architectures": ["GPT2"]}')
    ledger.add({"lr": 1})
    ledger.deliver_all()
    assert (ledger.outdir / "config.json").read_text() == '{"architectures": ["GPT2"]}'
    assert json.loads((ledger.outdir / "config-run-a.json").read_text()) == {"lr": 1}
