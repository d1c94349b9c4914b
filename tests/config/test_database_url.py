"""DATABASE_URL, part by part; what a real server makes of it is in tests/outside."""

from __future__ import annotations

from urllib.parse import parse_qs, quote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.database_url import (
    ignored_parameters,
    is_exposed,
    passwords,
    read_as_secret,
    read_database_url,
)
from config.env_types import Secret


def parameters(text):
    dsn = read_database_url(text).dsn.reveal()
    return {name: values[0] for name, values in parse_qs(urlsplit(dsn).query).items()}


@pytest.mark.parametrize(
    ("text", "exposed"),
    [
        ("postgresql://u@db.example.com/x", True),
        ("postgresql://u@db.example.com/x?sslmode=prefer", True),
        ("postgresql://u@127.0.0.1,db.example.com/x?sslmode=disable", True),
        ("postgresql://u@/x?host=10.0.0.7", True),
        ("postgresql://u@db.example.com/x?sslmode=require", False),
        ("postgresql://u@db.example.com/x?sslrootcert=system", False),
        ("postgresql://u@localhost/x", False),
        ("postgresql://u@[::1]/x", False),
        ("postgresql://u@/x?host=/var/run/postgresql", False),
        ("postgresql://u@/x", False),
        ("nonsense", False),
    ],
)
def test_a_database_elsewhere_without_tls_is_noticed(text, exposed):
    assert is_exposed(text) is exposed


def test_every_part_is_a_parameter_for_the_driver():
    assert parameters("postgresql://u:p@h:6543/db?sslmode=require&work_mem=8MB") == {
        "user": "u",
        "password": "p",
        "host": "h",
        "port": "6543",
        "dbname": "db",
        "sslmode": "require",
        "work_mem": "8MB",
    }


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("postgresql://u:p@h1:1,h2/db", "host", "h1,h2"),
        ("postgresql://u:p@h1:1,h2/db", "port", "1,5432"),
        ("postgresql://u:p@[::1]:5433/db", "host", "[::1]"),
        ("postgresql://u@%2Ftmp%2Fx:5/db", "host", "/tmp/x"),
        ("postgresql:///db?host=::1", "host", "[::1]"),
        ("postgresql:///db?host=a,b&port=1,2", "port", "1,2"),
        ("postgresql:///db?hostaddr=10.0.0.1", "host", "10.0.0.1"),
        ("postgresql://h/db?hostaddr=10.0.0.1", "host", "h"),
        ("postgresql://h/db?host=other&port=7", "host", "h"),
        ("postgresql://h/db?port=7", "port", "7"),
        ("postgresql://h/db?dbname=other", "dbname", "db"),
        ("postgresql://h/?dbname=other", "dbname", "other"),
        ("postgresql://h/a%2Fb", "dbname", "a/b"),
        ("postgresql://h/db?ssl=1", "sslmode", "require"),
        ("postgresql://h/db?ssl=false", "sslmode", "disable"),
        ("postgresql://h/db?ssl=true&sslmode=verify_ca", "sslmode", "verify-ca"),
        ("DATABASE_URL=postgresql://u:p@h/db", "user", "u"),
        ("export DATABASE_URL='postgresql://u:p@h/db'", "dbname", "db"),
        ("postgresql://u:a+b@h/db", "password", "a+b"),
    ],
)
def test_a_part_in_another_place_is_read(text, name, value):
    assert parameters(text)[name] == value


def test_authorities_of_the_system_are_for_the_full_check():
    read = read_database_url("postgresql://h/db?sslrootcert=system&sslmode=require")

    assert read.trust_system
    assert read.files == {}
    assert "sslmode" not in read.dsn.reveal()


def test_files_are_named():
    read = read_database_url("postgresql://h/db?sslrootcert=/a.pem&sslkey=&passfile=/b")

    assert read.files == {"sslrootcert": "/a.pem", "passfile": "/b"}


def test_the_settings_keep_the_text_and_hide_it():
    assert read_as_secret("postgresql://u:p@h/db") == Secret("postgresql://u:p@h/db")
    with pytest.raises(ValueError, match="expected"):
        read_as_secret("redis://h")
    assert ignored_parameters("redis://h?pgbouncer=true") == ()


def test_passwords_are_found_for_masks_as_written_and_as_meant():
    assert set(passwords("postgresql://u:a%40b@h/db?password=c%2Fd")) == {
        "a%40b",
        "a@b",
        "c%2Fd",
        "c/d",
    }
    assert passwords("no url") == ()


@given(st.text(min_size=1).filter(lambda text: "\0" not in text and "\ud800" not in text))
def test_any_password_that_is_escaped_arrives_and_any_other_is_taken_or_refused(password):
    try:
        escaped = quote(password, safe="")
    except UnicodeEncodeError:
        return  # half a letter, which no URL can hold
    assert parameters(f"postgresql://u:{escaped}@h/db")["password"] == password
    try:
        read = parameters(f"postgresql://u:{password}@h/db")
    except ValueError as error:
        assert "expected" in str(error)  # noqa: PT017  # either is right
    else:
        assert read["host"] == "h"
        assert read["dbname"] == "db"
