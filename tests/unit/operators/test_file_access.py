from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.operators.access.file_access import Location, check_file_access, fetch, resolve, writable
from flexiroaster.operators.base import Access

HERE = Access(file_roots=(".",))


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(StageError) as caught:
        call()
    assert caught.value.error_class is ErrorClass.CONFIGURATION
    return caught.value.message


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    (tmp_path / "data" / "deep").mkdir(parents=True)
    for name in ("b.csv", "a.csv", "deep/c.csv", ".hidden.csv", "odd[1].csv"):
        (tmp_path / "data" / name).write_text("x\n1\n")


@pytest.fixture
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outside")
    (folder / "secret.csv").write_text("x\n1\n")
    return folder


def labels(path: str, access: Access = HERE) -> list[str]:
    return [place.label for place in resolve(path, access)]


def test_a_path_is_made_absolute_and_labelled_by_its_root(tmp_path: Path) -> None:
    assert resolve("data/a.csv", HERE) == [Location(str(tmp_path / "data/a.csv"), "data/a.csv")]
    assert labels(str(tmp_path / "data/a.csv")) == ["data/a.csv"]
    assert labels((tmp_path / "data/a.csv").as_uri()) == ["data/a.csv"]
    assert labels("data/a.csv", Access(file_roots=(".", "data"))) == ["a.csv"]


def test_globs_are_sorted_and_leave_out_folders_and_hidden_files() -> None:
    assert labels("data/*") == ["data/a.csv", "data/b.csv", "data/odd[1].csv"]
    assert labels("data/**/*.csv") == ["data/a.csv", "data/b.csv", "data/deep/c.csv", "data/odd[1].csv"]


def test_a_file_that_bears_a_wildcard_in_its_name_goes_before_the_glob() -> None:
    assert labels("data/odd[1].csv") == ["data/odd[1].csv"]
    assert labels("data/[ab].csv") == ["data/a.csv", "data/b.csv"]


def test_what_is_not_there() -> None:
    assert refusal(lambda: resolve("data/none.csv", HERE)) == "file 'data/none.csv' does not exist"
    assert refusal(lambda: resolve("data/*.parquet", HERE)) == "no file matches 'data/*.parquet'"
    assert refusal(lambda: resolve("data", HERE)) == "'data' is a folder: name its files, such as 'data/*.csv'"
    assert refusal(lambda: resolve("", HERE)) == "'' is not a path"
    assert refusal(lambda: resolve("a\0b", HERE)) == "'a\\x00b' is not a path"


@pytest.mark.parametrize("path", ["/etc/passwd", "../x.csv", "data/../../x.csv", "file:///etc/passwd", "/etc/*.conf"])
def test_paths_outside_of_the_roots(path: str) -> None:
    expected = f"file {path!r} is outside the allowed roots (FILE_ROOTS): ."
    assert refusal(lambda: resolve(path, HERE)) == expected


def test_no_roots_allow_nothing() -> None:
    expected = "file 'data/a.csv' is outside the allowed roots (FILE_ROOTS): none"
    assert refusal(lambda: resolve("data/a.csv", Access())) == expected


def test_a_root_is_a_folder_and_not_the_beginning_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "database").mkdir()
    (tmp_path / "database" / "a.csv").write_text("x\n")
    assert "outside" in refusal(lambda: resolve("database/a.csv", Access(file_roots=("data",))))


def test_symbolic_links_are_judged_by_where_they_lead(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "data" / "link.csv").symlink_to(outside / "secret.csv")
    (tmp_path / "data" / "folder").symlink_to(outside)
    (tmp_path / "data" / "inner.csv").symlink_to(tmp_path / "data" / "a.csv")
    assert "outside the allowed roots" in refusal(lambda: resolve("data/link.csv", HERE))
    assert "outside the allowed roots" in refusal(lambda: resolve("data/folder/secret.csv", HERE))
    assert "outside the allowed roots" in refusal(lambda: resolve("data/folder/*.csv", HERE))
    assert refusal(lambda: resolve("data/l*.csv", HERE)).startswith("file 'link.csv' is outside")
    assert labels("data/inner.csv") == ["data/a.csv"]


def test_links_in_a_circle_and_names_too_long(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    assert "'one/x.csv'" in refusal(lambda: resolve("one/x.csv", HERE))  # in which words is up to Python's version
    for path in ("x" * 5000, "x" * 5000 + "*"):
        assert "File name too long" in refusal(lambda path=path: resolve(path, HERE))


def test_a_root_that_is_a_link_is_resolved_too(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "lake").symlink_to(outside)
    assert labels("lake/secret.csv", Access(file_roots=("lake",))) == ["secret.csv"]


def test_dots_after_a_wildcard_are_refused() -> None:
    path = "data/*/../../../etc/passwd"
    assert refusal(lambda: resolve(path, HERE)) == f"{path!r}: '..' may not follow a wildcard"


def test_a_file_url_of_another_host() -> None:
    expected = "'file://server/x.csv': a file:// URL must name a local file, not a file on host 'server'"
    assert refusal(lambda: resolve("file://server/x.csv", HERE)) == expected


def test_outputs_may_name_files_and_folders_that_do_not_exist_yet(tmp_path: Path) -> None:
    assert writable("out/new/x.parquet", HERE) == Location(str(tmp_path / "out/new/x.parquet"), "out/new/x.parquet")
    assert writable("out[1]/x.csv", HERE).path == tmp_path / "out[1]/x.csv"
    assert refusal(lambda: writable("data", HERE)) == "'data' is a folder: name a file"
    assert "outside" in refusal(lambda: writable("../x.csv", HERE))


def test_outputs_do_not_follow_links_out_of_the_roots(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "x[1]").symlink_to(outside)
    (tmp_path / "dangling.csv").symlink_to(outside / "new.csv")
    assert "outside" in refusal(lambda: writable("x[1]/new.csv", HERE))
    assert "outside" in refusal(lambda: writable("dangling.csv", HERE))


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("s3://bucket/data/x.csv", True),
        ("S3://bucket/data/x.csv", True),
        ("s3://bucket/data/*/x.csv", True),
        ("s3://bucket/database/x.csv", False),
        ("s3://bucket/data*/x.csv", False),
        ("s3://bucket/data/../x.csv", False),
        ("s3://bucket/data/%2e%2e/x.csv", False),
        ("s3://bucket/x.csv", False),
        ("s3://other/data/x.csv", False),
        ("gs://bucket/data/x.csv", False),
    ],
)
def test_urls_are_compared_by_segments(url: str, allowed: bool) -> None:
    access = Access(file_roots=(".", "s3://bucket/data/"))
    if allowed:
        assert check_file_access(url, access) == Location(url, url)
    else:
        expected = f"file {url!r} is outside the allowed roots (FILE_ROOTS): ., s3://bucket/data/"
        assert refusal(lambda: check_file_access(url, access)) == expected


def test_chained_and_web_urls_are_refused() -> None:
    access = Access(file_roots=("s3://bucket", "https://example.com", "zip://"))
    chained = "zip://a.csv::s3://bucket/a.zip"
    assert refusal(lambda: check_file_access(chained, access)) == f"{chained!r}: chained URLs ('::') are not permitted"
    web = "https://example.com/a.csv"
    assert refusal(lambda: check_file_access(web, access)) == f"{web!r}: read web addresses with the http input"


def test_remote_files_are_found_and_copied(tmp_path: Path) -> None:
    access = Access(file_roots=("memory://lake",))
    fsspec.filesystem("memory").pipe({"/lake/b.csv": b"x\n2\n", "/lake/a.csv": b"x\n1\n", "/other/c.csv": b""})
    found = resolve("memory://lake/*.csv", access)
    assert [Path(place.uri).name for place in found] == ["a.csv", "b.csv"]
    copies = [fetch(place, tmp_path / "fetched") for place in found]
    assert [copy.read_bytes() for copy in copies] == [b"x\n1\n", b"x\n2\n"]
    assert all(copy.parent == tmp_path / "fetched" for copy in copies)
    assert refusal(lambda: resolve("memory://lake/z.csv", access)) == "file 'memory://lake/z.csv' does not exist"
    assert refusal(lambda: resolve("memory://lake/*.z", access)) == "no file matches 'memory://lake/*.z'"
    with pytest.raises(ValueError, match="is not a local file"):
        _ = found[0].path


def test_local_files_are_not_copied(tmp_path: Path) -> None:
    (place,) = resolve("data/a.csv", HERE)
    assert fetch(place, tmp_path / "fetched") == tmp_path / "data" / "a.csv"
    assert not (tmp_path / "fetched").exists()


def test_a_missing_driver_and_an_unknown_scheme() -> None:
    access = Access(file_roots=("oci://bucket", "nope://x"))
    message = refusal(lambda: resolve("oci://bucket/a.csv", access))
    assert message == "oci:// needs a package that is not installed: Install ocifs to access OCI Object Storage"
    assert refusal(lambda: resolve("nope://x/a.csv", access)) == "'nope://x/a.csv': Protocol not known: nope"
