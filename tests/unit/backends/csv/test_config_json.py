"""config.json: merged key by key, and the same after a redelivery."""

import json

import pytest


def test_config_is_merged_key_by_key_into_what_is_there(ledger):
    ledger.outdir.mkdir()
    (ledger.outdir / "config.json").write_text('{"seed": 1, "model": {"layers": 2}}')
    ledger.add({"model": {"width": 3}})
    ledger.add({"lr": "<object>"})
    ledger.deliver_all()
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
    ledger.outdir.mkdir()
    (ledger.outdir / "config.json").write_text(found, encoding="latin-1")
    ledger.add({"a": "\ud800"})
    ledger.deliver_all()
    assert json.loads((ledger.outdir / "config.json").read_text()) == {"a": "\ud800"}
