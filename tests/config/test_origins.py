"""Origins and hosts: what is the same, however it is written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.origins import is_same, normalise, split_host


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Example.COM", ("example.com", None)),
        ("example.com.:8080", ("example.com", 8080)),
        ("127.0.0.1:1", ("127.0.0.1", 1)),
        ("[::0001]:443", ("[::1]", 443)),
        (".", (".", None)),
        ("b\u00fccher.example", ("xn--bcher-kva.example", None)),
        ("", None),
        ("a b", None),
        ("a:b", None),
        ("a:1:2", None),
        ("a:65536", None),
        ("[::1", None),
        ("[::1::2]", None),
        ("::1", None),
        ("user@host", None),
        ("host/path", None),
        ("\u00fc" * 70, None),
    ],
)
def test_a_host_has_one_form(text, parts):
    assert split_host(text) == parts


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("HTTPS://Example.com:443", "https://example.com"),
        ("http://example.com:80", "http://example.com"),
        ("http://example.com:443", "http://example.com:443"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("app://a:80", "app://a:80"),
        ("null", None),
        ("https://", None),
        ("https://a/", None),
        ("https://a?b", None),
        ("://a", None),
        ("1a://a", None),
    ],
)
def test_an_origin_has_one_form(text, origin):
    assert normalise(text) == origin


@given(st.text())
def test_any_text_can_be_looked_at(text):
    found = normalise(text)

    assert found is None or normalise(found) == found
    assert not is_same(text, text, is_secure=False)


def test_what_is_known_to_be_secure_is_not_the_origin_of_a_page_that_is_not():
    assert is_same("https://a", "a", is_secure=True)
    assert is_same("https://a", "a:443", is_secure=False)
    assert is_same("http://a", "a", is_secure=False)
    assert not is_same("http://a", "a", is_secure=True)
    assert not is_same("http://a:443", "a:443", is_secure=True)
