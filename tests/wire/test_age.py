"""age files: what the reference implementation reads and writes, damaged files, keys with typing mistakes."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.wire import age, bech32

pyrage = pytest.importorskip("pyrage")

ALICE, BOB = pyrage.x25519.Identity.generate(), pyrage.x25519.Identity.generate()
SIZES = (0, 1, age.CHUNK - 1, age.CHUNK, age.CHUNK + 1, 3 * age.CHUNK + 5)


def encrypted(data, *owners, step=10_000):
    recipients = [age.recipient(str(owner.to_public())) for owner in owners]
    encryptor = age.Encryptor(recipients, os.urandom(age.randomness_for(len(recipients))))
    pieces = [encryptor.update(data[at : at + step]) for at in range(0, len(data), step)]
    return encryptor.header + b"".join(pieces) + encryptor.finish()


def decrypted(data, owner):
    return b"".join(age.decrypt(data, [age.identity(str(owner))]))


@pytest.mark.parametrize("size", SIZES)
def test_rage_reads_what_is_written_and_what_rage_writes_is_read(size):
    text = os.urandom(size)
    file = encrypted(text, ALICE, BOB)
    assert [pyrage.decrypt(file, [owner]) for owner in (ALICE, BOB)] == [text, text]
    assert decrypted(file, BOB) == text
    assert decrypted(pyrage.encrypt(text, [BOB.to_public()]), BOB) == text


def test_who_has_another_key_reads_nothing():
    with pytest.raises(age.AgeError, match="other keys"):
        decrypted(encrypted(b"secret", ALICE), BOB)


@pytest.mark.parametrize("kept", [age.CHUNK, age.CHUNK + age.TAG, 2 * age.CHUNK])
def test_a_file_that_is_cut_off_is_read_as_far_as_it_goes_and_says_so(kept):
    text = os.urandom(3 * age.CHUNK)
    file = encrypted(text, ALICE)
    head = len(file) - 3 * (age.CHUNK + age.TAG)
    got = []
    with pytest.raises(age.AgeError, match="cut off"):
        got += (each for each in age.decrypt(file[: head + kept], [age.identity(str(ALICE))]))
    assert b"".join(got) == text[: age.CHUNK * (kept // (age.CHUNK + age.TAG))]


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_no_changed_byte_goes_unnoticed(data):
    file = bytearray(encrypted(b"some words", ALICE))
    at = data.draw(st.integers(0, len(file) - 1))
    file[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(age.AgeError):
        decrypted(bytes(file), ALICE)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_noise_is_no_file(noise):
    with pytest.raises(age.AgeError):
        list(age.decrypt(noise, [age.identity(str(ALICE))]))


@given(st.binary(max_size=80))
def test_bech32_comes_back(data):
    assert bech32.decode(bech32.encode("age", data)) == ("age", data)


@pytest.mark.parametrize("change", [str.lower, str.upper])
def test_bech32_knows_no_case(change):
    key = str(ALICE.to_public())
    assert age.recipient(change(key)) == age.recipient(key)


def test_a_wrong_character_in_a_key_is_noticed():
    key = str(ALICE.to_public())
    wrong = key[:10] + ("q" if key[10] != "q" else "p") + key[11:]
    for text, why in (
        (wrong, "checksum"),
        (key[:-1] + "b", "does not occur"),
        ("AGE" + key[3:], "mixed"),
        ("age1", "too short"),
        (str(ALICE), r"expected age1\.\.\."),
    ):
        with pytest.raises(age.AgeError, match=why):
            age.recipient(text)
