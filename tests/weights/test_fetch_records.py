"""igpt fetch: which files it asks for, what it records of them and leaves alone, and its command line."""

import re
import shutil
import subprocess

import pytest
from filelock import FileLock

from igpt_jax.cli import main
from igpt_jax.weights import fetch as module
from tests.data.made import refused
from tests.weights.fetch_server import BIG, INDEX, NAMES, PALETTE, SIZE, check, path_of, run


def test_all_files_arrive_and_are_recorded(release, tmp_path):
    assert run(release, tmp_path / "new" / "s") == tmp_path / "new" / "s" / "model.ckpt-1000000"
    check(release, tmp_path / "new" / "s")


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="no coreutils")
def test_the_record_is_what_sha256sum_reads(release, tmp_path):
    run(release, tmp_path)
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert told.count(": OK\n") == 1 + len(NAMES)
    (tmp_path / BIG).write_bytes(b"other")
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 1


def test_the_addresses_are_those_of_the_release(release, tmp_path, monkeypatch):
    """Paths for the other sizes, --bert and --step, in full: 32 shards for s and m, 64 for l."""
    monkeypatch.undo()
    monkeypatch.setattr(module._Download, "run", lambda self: asked.update(self.urls))
    for model, n in (("igpt-s", 32), ("igpt-m", 32), ("igpt-l", 64)):
        asked: dict[str, str] = {}
        module.fetch(model, tmp_path / model, bert=True, step=131_000)
        base = "https://openaipublic.blob.core.windows.net/image-gpt"
        ends = ["index", "meta", *(f"data-{i:05d}-of-{n:05d}" for i in range(n))]
        wanted = {
            f"model.ckpt-131000.{e}": f"{base}/checkpoints/{model}-bert/131000/model.ckpt-131000.{e}" for e in ends
        }
        assert asked == {PALETTE: f"{base}/color-clusters/{PALETTE}"} | wanted


def test_what_is_there_is_not_fetched_again(release, tmp_path):
    run(release, tmp_path)
    release.log.clear()
    assert run(release, tmp_path) == tmp_path / "model.ckpt-1000000"
    assert release.log == []
    (tmp_path / INDEX).unlink()
    run(release, tmp_path)
    assert {name for _, name in release.log} == {INDEX}
    check(release, tmp_path)


def test_a_file_that_changed_here_is_named_and_left_alone(release, tmp_path):
    run(release, tmp_path)
    damaged = bytearray((tmp_path / BIG).read_bytes())
    damaged[-1] ^= 1
    (tmp_path / BIG).write_bytes(damaged)
    refused(f"{tmp_path / BIG}: .*delete it", run, release, tmp_path)
    assert (tmp_path / BIG).read_bytes() == damaged
    (tmp_path / BIG).unlink()
    run(release, tmp_path)
    check(release, tmp_path)


def test_a_file_that_changed_there_is_not_taken_for_the_recorded_one(release, tmp_path):
    run(release, tmp_path)
    (tmp_path / BIG).unlink()
    old, release.files[path_of(BIG)] = release.files[path_of(BIG)], bytes(SIZE)
    refused("SHA256SUMS", run, release, tmp_path)
    assert not (tmp_path / BIG).exists()
    release.files[path_of(BIG)] = old
    run(release, tmp_path)
    check(release, tmp_path)


def test_a_file_that_the_user_brought(release, tmp_path):
    (tmp_path / BIG).write_bytes(release.files[path_of(BIG)])
    run(release, tmp_path)
    assert release.gets(BIG) == 0
    check(release, tmp_path)


def test_a_file_of_the_user_that_is_not_it(release, tmp_path):
    (tmp_path / INDEX).write_bytes(b"mine")
    refused(f"{tmp_path / INDEX}: .*delete it", run, release, tmp_path)
    assert (tmp_path / INDEX).read_bytes() == b"mine"
    assert INDEX not in (tmp_path / "SHA256SUMS").read_text()


def test_a_wrong_palette_is_refused(release, tmp_path, rng):
    path = f"/image-gpt/color-clusters/{PALETTE}"
    good, release.files[path] = release.files[path], rng.bytes(6272)
    refused(f"{PALETTE}: .*the release", run, release, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} <= {".lock"}
    (tmp_path / PALETTE).write_bytes(release.files[path])
    refused(f"{tmp_path / PALETTE}: is not the palette of the release", run, release, tmp_path)
    (tmp_path / PALETTE).unlink()
    release.files[path] = good
    run(release, tmp_path)
    check(release, tmp_path)


def test_another_step_joins_and_another_model_does_not(release, tmp_path, rng, monkeypatch):
    run(release, tmp_path)
    release.log.clear()
    new = [name.replace("1000000", "131000") for name in NAMES]
    release.files |= {path_of(name, step=131_000): rng.bytes(50) for name in new}
    assert run(release, tmp_path, step=131_000) == tmp_path / "model.ckpt-131000"
    assert {name for _, name in release.log} == set(new)
    check(release, tmp_path, NAMES + new)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    refused("holds igpt-s; name another directory for igpt-s-bert", run, release, tmp_path, bert=True)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_the_record_keeps_what_others_wrote(release, tmp_path):
    other = "# mine\n" + "A" * 64 + " *other.bin"
    (tmp_path / "SHA256SUMS").write_text(other)
    run(release, tmp_path)
    text = (tmp_path / "SHA256SUMS").read_text()
    assert text.startswith(other + "\n")
    (tmp_path / "SHA256SUMS").write_text(text + "torn lin")
    refused("line 9", run, release, tmp_path)


def test_two_calls_do_not_share_a_directory(release, tmp_path):
    with FileLock(tmp_path / ".lock"):
        refused(f"{tmp_path}: another process", run, release, tmp_path)
        assert release.log == []
    run(release, tmp_path)
    check(release, tmp_path)


def test_a_directory_that_cannot_be_one(release, tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        refused(str(tmp_path / "file"), run, release, path)


@pytest.mark.parametrize("url", ["openai.com", "file:///etc/", "ftp://a/"])
def test_addresses_that_are_none(tmp_path, url):
    refused(f"base URL {url!r}", module.fetch, "igpt-s", tmp_path / "new", base_url=url)
    assert not (tmp_path / "new").exists()


def test_the_command_prints_the_prefix_and_nothing_else(release, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    release.status[INDEX] = [500]
    assert main(["fetch", "igpt-s", "--base-url", release.url]) == 0
    shown = capsys.readouterr()
    assert shown.out == "weights/igpt-s/model.ckpt-1000000\n"
    assert "github.com/openai/image-gpt" in shown.err
    for name in (PALETTE, *NAMES):
        assert len(re.findall(rf"^igpt: {name} .*downloaded$", shown.err, re.MULTILINE)) == 1
    check(release, tmp_path / "weights" / "igpt-s")
    release.files = {path.replace("igpt-s/", "igpt-s-bert/"): body for path, body in release.files.items()}
    assert main(["fetch", "igpt-s", "--bert", "--base-url", release.url]) == 0
    assert capsys.readouterr().out == "weights/igpt-s-bert/model.ckpt-1000000\n"
    assert main(["fetch", "igpt-s", "--bert", "--out", "x", "--step", "1000000", "--base-url", release.url]) == 0
    check(release, tmp_path / "x")


def test_models_that_are_none(tmp_path, capsys):
    assert main(["fetch", "igpt-xl", "--out", str(tmp_path / "new")]) == 2
    assert "igpt-xl" in capsys.readouterr().err
    refused("choose one of igpt-s, igpt-m, igpt-l", module.fetch, "xl", tmp_path / "new")
    assert not (tmp_path / "new").exists()
