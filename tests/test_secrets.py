"""What names a secret is hidden, at any depth and in texts; what only looks like it stays."""

from __future__ import annotations

import io
import sys

import pytest

from iwin.secrets import names_secret, redact, redacted_output, secrets_in

SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    "name",
    [
        *("token", "key", "secret", "password", "api_key", "apiKey", "APIKey", "hf_token", "HF_TOKEN", "wandb-token"),
        *("aws_secret_access_key", "token_2", "logger.wandb.api_key", "keys", "secrets.mine"),
    ],
)
def test_a_key_that_names_a_secret_hides_its_value(name: str) -> None:
    assert redact({"a": [{name: SECRET}]}) == {"a": [{name: "***"}]}
    assert redact(f"+{name}={SECRET} and more") == f"+{name}=***"


@pytest.mark.parametrize("name", ["keyboard", "monkey", "tokenizer", "secretary", "keyed", "hockey", "lr"])
def test_a_word_in_a_word_names_none(name: str) -> None:
    assert redact({name: "shown"}) == {name: "shown"}
    assert not names_secret(name)


def test_numbers_are_hidden_where_they_can_be_a_secret() -> None:
    kept = {"class_token": True, "reg_tokens": 4, "key_dim": 16, "token": None, "secret": ""}
    assert redact(kept) == kept
    assert redact({"password": 12345678, "pin_key": 1.5}) == {"password": "***", "pin_key": "***"}


def test_all_below_a_secrets_key_is_hidden() -> None:
    assert redact({"token": {"a": "x", "b": ["y", 3]}, "keys": ("z",)}) == {
        "token": {"a": "***", "b": ["***", "***"]},
        "keys": ("***",),
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see https://user:pass@host/x", "see https://***@host/x"),
        ("https://token@host:80/x", "https://***@host:80/x"),
        ("https://user:p/w@host/x", "https://***@host/x"),
        ("https://user:p@ss@host/x", "https://***@host/x"),
        ("https://host:80/a@b", "https://host:80/a@b"),
        ("s3://bucket/v@2", "s3://bucket/v@2"),
        ("https://host/x?token=abc&v=1", "https://host/x?token=***&v=1"),
        ("a: 1\n  api_key: abc\nb: 2\n", "a: 1\n  api_key: ***\nb: 2\n"),
        ("- token: 'a b'", "- token: '***'"),
        ('{"api_key": "abc", "n": 2}', '{"api_key": "***", "n": 2}'),
        ("+x={n: 1, api_key: abc}", "+x={n: 1, api_key: ***}"),
        ("api_key: ${oc.env:API_KEY}", "api_key: ${oc.env:API_KEY}"),
        ("the sample's key is wrong; the unknown key: x", "the sample's key is wrong; the unknown key: x"),
        ("token=null", "token=null"),
    ],
)
def test_texts(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_a_known_secret_is_hidden_wherever_it_stands() -> None:
    known = secrets_in([f"+a.token={SECRET}", "data.root=https://me:sesame@h/x", "x={api_key: 'open up'}", "key=1"])
    assert known == {SECRET, "sesame", "open up"}
    assert redact(f"got {SECRET}, sesame", known) == "got ***, ***"
    assert secrets_in({"a": [{"token": SECRET, "lr": 0.125}]}) == {SECRET}


def test_what_is_printed_is_redacted(monkeypatch) -> None:
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    known: set[str] = set()
    with redacted_output(known):
        known.add(SECRET)
        print(SECRET, "token=abc")
        print(f"there: {SECRET}", file=sys.stderr)
        sys.stderr.writelines([SECRET])
        assert not sys.stdout.isatty()
    assert out.getvalue() == "*** token=***\n"
    assert err.getvalue() == "there: ***\n***"
    assert sys.stdout is out
