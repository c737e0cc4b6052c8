#!/usr/bin/env python3
"""Models from Hugging Face (--hf-repo), from a hub on this machine that fails in every way one may.
    hub_test.py WINDOWKV-BINARY SOURCE-DIR
"""
import hashlib, json, os, pathlib, shutil, signal, socket, subprocess, sys, tempfile, threading, time, unittest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote

WINDOWKV, SOURCE = sys.argv[1], pathlib.Path(sys.argv[2])
MODEL = (SOURCE / "models/minilong-6m-q8_0.gguf").read_bytes()
SHA = hashlib.sha256(MODEL).hexdigest()
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_" + "a" * 34


class Hub:
    """Two servers: the hub and the one that it sends downloads to. Tests set what they do."""

    def __init__(self):
        self.files = {"README.md": b"# hi", "tiny-Q4_K_M.gguf": MODEL}
        self.oids = {}          # path: SHA-256 told for it, instead of the right one
        self.token = None       # asked for where set
        self.commit = COMMIT
        self.cut = []           # bytes after which the next downloads break off
        self.slow = False
        self.lfs = True         # whether SHA-256s are in the listing; else in X-Linked-ETag
        self.ranges = True
        self.loop = self.html = self.login = False
        self.status = {}        # "refs", "tree", "file": answered with that status
        self.log = []           # (server, path, headers)
        self.hub = self.serve("hub")
        self.cdn = self.serve("cdn")

    def serve(self, name):
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_HEAD(self):
                self.do_GET()

            def do_GET(self):
                outer.log.append((name, self.path, dict(self.headers)))
                getattr(outer, name + "_get")(self)

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # clients that hang up
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def close(self):
        for server in (self.hub, self.cdn):
            server.shutdown()
            server.server_close()

    @staticmethod
    def url(server):
        return f"http://127.0.0.1:{server.server_port}"

    @staticmethod
    def send(h, status, body=b"", kind="application/json", **headers):
        h.send_response(status)
        h.send_header("Content-Type", kind)
        h.send_header("Content-Length", str(len(body)))
        for key, value in headers.items():
            h.send_header(key.replace("_", "-"), value)
        h.end_headers()
        if h.command == "GET":
            h.wfile.write(body)

    def sha(self, path):
        return self.oids.get(path) or hashlib.sha256(self.files[path]).hexdigest()

    def hub_get(self, h):
        if self.login:
            return self.send(h, 200, b"<html>Please log in to the network</html>", "text/html; charset=utf-8")
        if self.token and h.headers.get("Authorization") != "Bearer " + self.token:
            return self.send(h, 401, b'{"error":"Invalid username or password."}')
        what = "refs" if h.path.endswith("/refs") else "tree" if "/tree/" in h.path else "file"
        if what in self.status:
            return self.send(h, self.status[what], b'{"error":"no"}')
        if not h.path.split("?")[0].startswith(("/api/models/me/tiny-GGUF/", "/me/tiny-GGUF/resolve/")):
            return self.send(h, 404, b'{"error":"Repository not found"}')
        if what == "refs":
            branches = [{"name": "other", "ref": "refs/heads/other", "targetCommit": "f" * 40},
                        {"name": "main", "ref": "refs/heads/main", "targetCommit": self.commit}]
            return self.send(h, 200, json.dumps({"tags": [], "branches": branches}).encode())
        if what == "tree":
            out = [{"type": "directory", "path": "folder", "oid": "0" * 40, "size": 0}]
            for path, data in self.files.items():
                entry = {"type": "file", "path": path, "oid": "1" * 40, "size": len(data)}
                if path.endswith(".gguf") and self.lfs:
                    entry["lfs"] = {"oid": self.sha(path), "size": len(data), "pointerSize": 134}
                elif path.endswith(".gguf"):
                    del entry["oid"]
                out.append(entry)
            return self.send(h, 200, json.dumps(out).encode())
        if self.loop:
            return self.send(h, 302, Location=h.path)
        path = unquote(h.path.split("/resolve/", 1)[1].split("/", 1)[1])
        self.send(h, 302, Location=f"{self.url(self.cdn)}/{quote(path)}?signature=1", X_Linked_ETag=f'"{self.sha(path)}"')

    def cdn_get(self, h):
        if "Authorization" in h.headers:  # as the real ones do
            return self.send(h, 400, b"Only one auth mechanism allowed")
        if self.html:
            return self.send(h, 200, b"<html>gone</html>", "text/html")
        data = self.files[unquote(h.path[1:].split("?")[0])]
        start = 0
        if self.ranges and h.headers.get("Range"):
            start = int(h.headers["Range"][len("bytes="):-1])
            if start >= len(data):
                return self.send(h, 416)
        h.send_response(206 if start else 200)
        h.send_header("Content-Type", "binary/octet-stream")
        h.send_header("Content-Length", str(len(data) - start))
        h.send_header("Accept-Ranges", "bytes" if self.ranges else "none")
        h.send_header("ETag", '"etag"')
        if start:
            h.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        h.end_headers()
        if h.command != "GET":
            return
        end = start + self.cut.pop(0) if self.cut else len(data)
        for at in range(start, min(end, len(data)), 1 << 16):
            h.wfile.write(data[at:min(at + (1 << 16), end)])
            if self.slow:
                time.sleep(0.1)
        if end < len(data):
            h.connection.shutdown(socket.SHUT_RDWR)
            h.close_connection = True

    def downloads(self):
        """Range headers of the requests for contents."""
        return [headers.get("Range") for name, _, headers in self.log if name == "cdn"]


class HubTest(unittest.TestCase):
    def setUp(self):
        self.hub = Hub()
        self.addCleanup(self.hub.close)
        self.dir = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.dir)
        self.cache = self.dir / "cache"
        self.repo = self.cache / "models--me--tiny-GGUF"
        self.env = {k: v for k, v in os.environ.items()
                    if not k.startswith(("HF_", "HUGGINGFACE", "LLAMA_", "MODEL_END")) and not k.lower().endswith("_proxy")}
        self.env |= {"HF_ENDPOINT": Hub.url(self.hub.hub), "LLAMA_CACHE": str(self.cache), "GOMP_SPINCOUNT": "1000",
                     "HOME": str(self.dir)}

    def command(self, repo, *flags):
        return [WINDOWKV, "inspect", "-hf", repo, "--lengths", "64", *flags]

    def run_it(self, repo="me/tiny-GGUF", *flags, code=0, **env):
        result = subprocess.run(self.command(repo, *flags), env=self.env | env, capture_output=True, text=True, timeout=120)
        self.assertEqual(result.returncode, code, result.stderr)
        if code == 0:
            self.assertIn("MiniLong", result.stdout)
        else:
            self.assertEqual(result.stdout, "")
        return result.stderr

    def refuses(self, words, *arguments, code=1, lines=1, **env):
        err = self.run_it(*arguments, code=code, **env)
        self.assertEqual(len(err.splitlines()), lines, err)
        for word in [words] if isinstance(words, str) else words:
            self.assertIn(word, err)

    def blob(self):
        return self.repo / "blobs" / SHA

    def part(self):
        return self.repo / "blobs" / (SHA + ".downloadInProgress")

    def expect_cached(self, name="tiny-Q4_K_M.gguf"):
        link = self.repo / "snapshots" / self.hub.commit / name
        self.assertTrue(link.is_symlink())
        self.assertEqual(link.resolve(), self.blob().resolve())
        self.assertFalse(os.path.isabs(os.readlink(link)))
        self.assertEqual(self.blob().read_bytes(), MODEL)
        self.assertEqual((self.repo / "refs/main").read_text(), self.hub.commit)
        self.assertEqual(list(self.repo.rglob("*InProgress")) + list(self.repo.rglob("*part*")), [])

    # What works

    def test_downloads_once_into_the_hubs_layout(self):
        self.assertIn("downloading tiny-Q4_K_M.gguf", self.run_it())
        self.expect_cached()
        self.assertEqual(self.run_it(), "")
        self.assertEqual(len(self.hub.downloads()), 1)

    def test_chooses_the_quantization(self):
        other = MODEL + b"\0"
        for names, repo, flags, expected in [
            (["a-F16.gguf", "b-Q8_0.gguf", "c-Q4_K_M.gguf"], "", [], "c-Q4_K_M.gguf"),
            (["a-F16.gguf", "b-q8_0.gguf"], "", [], "b-q8_0.gguf"),
            (["mmproj-a-Q8_0.gguf", "x.txt", "b-F16.gguf", "a-F32.gguf"], "", [], "b-F16.gguf"),
            (["a-BF16.gguf", "a-F16.gguf", "a-Q4_K_M.gguf"], ":f16", [], "a-F16.gguf"),
            (["a-Q4_K_S.gguf", "a-Q4_K_M.gguf"], ":Q4_K_S", [], "a-Q4_K_S.gguf"),
            (["a-Q4_K_M.gguf", "sub folder/a+b.gguf"], "", ["-hff", "sub folder/A+b.gguf"], "sub folder/a+b.gguf"),
        ]:
            with self.subTest(expected):
                shutil.rmtree(self.cache, ignore_errors=True)
                self.hub.files = {n: MODEL if n == expected else other for n in names}
                self.hub.cdn_get = lambda h: Hub.send(h, 200, MODEL, "binary/octet-stream")
                self.run_it("me/tiny-GGUF" + repo, *flags)
                self.expect_cached(expected)

    def test_where_the_cache_is(self):
        del self.env["LLAMA_CACHE"]
        for env, within in [({}, ".cache/huggingface/hub"),
                            ({"XDG_CACHE_HOME": str(self.dir / "xdg")}, "xdg/huggingface/hub"),
                            ({"HF_HOME": str(self.dir / "hf"), "XDG_CACHE_HOME": "/nowhere"}, "hf/hub"),
                            ({"HF_HUB_CACHE": str(self.dir / "hub"), "HF_HOME": "/nowhere"}, "hub"),
                            ({"LLAMA_CACHE": str(self.dir / "llama"), "HF_HUB_CACHE": "/nowhere"}, "llama")]:
            with self.subTest(within):
                self.repo = self.dir / within / "models--me--tiny-GGUF"
                self.run_it(**env)
                self.expect_cached()

    def test_a_new_commit_with_the_same_contents_is_not_downloaded_again(self):
        self.run_it()
        self.hub.commit = "e" * 40
        self.run_it()
        self.expect_cached()
        self.assertEqual(len(self.hub.downloads()), 1)

    def test_a_cut_connection_is_resumed(self):
        self.hub.cut = [300_000, 0, 500_000]
        self.run_it()
        self.expect_cached()
        self.assertEqual(self.hub.downloads(), [None, "bytes=300000-", "bytes=300000-", "bytes=800000-"])

    def test_the_next_run_resumes_what_an_interrupt_left(self):
        self.hub.slow = True
        process = subprocess.Popen(self.command("me/tiny-GGUF"), env=self.env, stderr=subprocess.PIPE, text=True)
        while not self.part().exists() or self.part().stat().st_size < 200_000:
            self.assertIsNone(process.poll())
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=20)[1]
        self.assertEqual(process.returncode, 130)
        self.assertIn("kept", err)
        kept = self.part().stat().st_size
        self.assertGreater(kept, 0)
        self.hub.slow = False
        self.assertIn("already downloaded", self.run_it())
        self.expect_cached()
        self.assertEqual(self.hub.downloads()[1:], [f"bytes={kept}-"])

    def test_a_server_without_ranges_sends_all_again(self):
        self.hub.cut, self.hub.ranges = [300_000], False
        self.run_it()
        self.expect_cached()

    def test_a_part_that_is_too_long_or_already_whole(self):
        for content in MODEL + b"more", MODEL:
            shutil.rmtree(self.cache, ignore_errors=True)
            self.part().parent.mkdir(parents=True)
            self.part().write_bytes(content)
            self.run_it()
            self.expect_cached()
        self.assertEqual(len(self.hub.downloads()), 1)

    def test_two_at_once_download_once(self):
        self.hub.slow = True
        both = [subprocess.Popen(self.command("me/tiny-GGUF"), env=self.env, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.PIPE, text=True) for _ in range(2)]
        errs = [p.communicate(timeout=60)[1] for p in both]
        self.assertEqual([p.returncode for p in both], [0, 0], errs)
        self.expect_cached()
        self.assertEqual(len(self.hub.downloads()), 1)

    def test_the_token_goes_to_the_hub_alone(self):
        self.hub.token = TOKEN
        self.run_it(HF_TOKEN=TOKEN)
        self.expect_cached()
        for server, _, headers in self.hub.log:
            self.assertEqual(headers.get("Authorization"), f"Bearer {TOKEN}" if server == "hub" else None)
        shutil.rmtree(self.cache)
        self.run_it("me/tiny-GGUF", "-hft", TOKEN, HF_TOKEN="hf_other")
        self.assertEqual(self.hub.log[-2][2]["Authorization"], f"Bearer {TOKEN}")

    def test_the_sum_of_the_redirection_counts_where_the_listing_has_none(self):
        self.hub.lfs = False
        self.hub.oids["tiny-Q4_K_M.gguf"] = "0" * 64
        self.refuses("SHA-256 differs", lines=2)
        self.hub.oids.clear()
        self.run_it()
        self.assertEqual((self.repo / "snapshots" / COMMIT / "tiny-Q4_K_M.gguf").read_bytes(), MODEL)

    def test_model_endpoint_comes_first(self):
        self.run_it(MODEL_ENDPOINT=self.env["HF_ENDPOINT"] + "/", HF_ENDPOINT="http://127.0.0.1:1")

    def test_cached_files_without_the_hub(self):
        self.run_it()
        before = len(self.hub.log)
        self.assertEqual(self.run_it("me/tiny-GGUF", "--offline"), "")
        self.assertEqual(len(self.hub.log), before)
        err = self.run_it(HF_ENDPOINT="http://127.0.0.1:1")
        self.assertIn("cannot be reached", err)
        self.assertIn("using the cached tiny-Q4_K_M.gguf", err)
        self.assertEqual(len(err.splitlines()), 1)
        for status in 500, 429, 401, 404:
            self.hub.status = {"refs": status}
            self.assertIn("using the cached", self.run_it())
        self.hub.status, self.hub.login = {}, True
        self.assertIn("using the cached", self.run_it())
        self.hub.login, self.hub.commit = False, "d" * 40
        self.hub.files["tiny-Q4_K_M.gguf"] = MODEL + b"new"
        self.hub.status = {"file": 404}
        self.assertIn("using the cached", self.run_it())

    def test_llama_cpp_and_we_find_each_others_files(self):
        llama = shutil.which("llama-completion")
        if not llama:
            self.skipTest("llama-completion is not installed")

        def theirs(*flags):
            return subprocess.run([llama, "-hf", "me/tiny-GGUF", "-no-cnv", "-p", "a", "-n", "1", "-t", "1", *flags],
                                  env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)

        result = theirs()
        self.assertEqual(result.returncode, 0, result.stderr[-2000:])
        self.expect_cached()
        self.hub.log.clear()
        self.run_it("me/tiny-GGUF", "--offline")
        self.run_it()
        self.assertEqual(self.hub.downloads(), [])
        shutil.rmtree(self.cache)
        self.run_it()
        self.hub.log.clear()
        result = theirs("--offline")
        self.assertEqual(result.returncode, 0, result.stderr[-2000:])
        self.assertEqual(theirs().returncode, 0)
        self.assertEqual(self.hub.downloads(), [])

    def test_all_parts_of_a_model_in_several_files(self):
        # The first is a whole model here, for the command to have one.
        names = [f"Q4_K_M/tiny-Q4_K_M-0000{i}-of-00002.gguf" for i in (1, 2)]
        self.hub.files = {names[0]: MODEL, names[1]: MODEL + bytes(32)}
        err = self.run_it()
        for name in names:
            self.assertIn(f"downloading {name}", err)
            self.assertEqual((self.repo / "snapshots" / COMMIT / name).read_bytes(), self.hub.files[name])
        self.hub.log.clear()
        self.run_it("me/tiny-GGUF", "-hff", names[1])
        self.run_it("me/tiny-GGUF", "--offline")
        self.assertEqual(self.hub.downloads(), [])
        (self.repo / "snapshots" / COMMIT / names[1]).unlink()
        self.refuses(f"lacks {names[1]}, part 2 of 2", "me/tiny-GGUF", "--offline")

    # What does not

    def test_wrong_contents_are_deleted(self):
        self.hub.oids["tiny-Q4_K_M.gguf"] = "0" * 64
        self.refuses(["SHA-256 differs", "deleted"], lines=2)
        self.assertEqual([p for p in self.repo.rglob("*") if p.is_file()], [])

    def test_no_such_thing(self):
        self.refuses(["has no repository", "me/none-GGUF"], "me/none-GGUF")
        self.refuses(["has no Q2_K file", "tiny-Q4_K_M.gguf"], "me/tiny-GGUF:Q2_K")
        self.refuses(["has no file x.gguf", "tiny-Q4_K_M.gguf"], "me/tiny-GGUF", "-hff", "x.gguf")
        self.hub.files = {"README.md": b""}
        self.refuses("has no GGUF file")
        for repo in "tiny", "a/b/c", "../x", "me/tiny:", "me/..", "me//tiny", "/tiny", "https://huggingface.co/me/tiny":
            self.refuses("is not a Hugging Face repository", repo)
        self.hub.files = {"tiny-Q4_K_M-00002-of-00002.gguf": MODEL}
        self.refuses("lacks tiny-Q4_K_M-00001-of-00002.gguf, part 1 of 2")

    def test_no_access(self):
        self.hub.token = TOKEN
        self.refuses(["denies access to me/tiny-GGUF", "HF_TOKEN"])
        self.refuses(["the token has no access to it"], HF_TOKEN="hf_wrong")
        self.hub.token, self.hub.status = None, {"file": 403}
        self.refuses(["denies access to me/tiny-GGUF"], lines=2)
        self.refuses("invalid characters", HF_TOKEN="hf_a\nX-Evil: 1")

    def test_no_hub(self):
        self.refuses("cannot be reached", HF_ENDPOINT="http://127.0.0.1:1")
        self.refuses("begins with https://", HF_ENDPOINT="huggingface.co")
        self.refuses(["is not in the cache", "--offline"], "me/tiny-GGUF", "--offline")
        self.hub.login = True
        self.refuses("but with a web page")

    def test_answers_that_are_no_model(self):
        self.hub.html = True
        self.refuses("web page", lines=2)
        self.hub.html = False
        self.hub.files["tiny-Q4_K_M.gguf"] = b"version https://git-lfs.github.com/spec/v1\n"
        self.refuses("did not send a GGUF file", lines=2)
        self.hub.loop = True
        self.hub.files["tiny-Q4_K_M.gguf"] = MODEL
        self.refuses("edirect", lines=2)
        self.assertEqual([p for p in self.repo.rglob("*") if p.is_file()], [])

    def test_a_connection_that_breaks_for_good_keeps_what_came(self):
        self.hub.cut = [200_000] + [0] * 9
        self.refuses(["stopped after 0.2 MB", "run the command again"], lines=2)
        self.assertEqual(self.part().stat().st_size, 200_000)
        self.hub.cut = []
        self.run_it()
        self.expect_cached()

    def test_a_cache_that_cannot_be_written(self):
        self.cache.write_text("a file")
        self.refuses(["Not a directory", "LLAMA_CACHE"])

    def test_a_full_disk(self):
        full = self.dir / "full"
        full.mkdir()
        if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", full],
                                               capture_output=True).returncode != 0:
            self.skipTest("needs a small file system, which only root can mount")
        self.addCleanup(subprocess.run, ["umount", full])
        self.refuses(["not enough space for tiny-Q4_K_M.gguf", "free"], lines=2, LLAMA_CACHE=str(full))

    def test_flags_that_do_not_go_together(self):
        self.refuses("excludes", "me/tiny-GGUF", "-m", "x.gguf", code=2)
        result = subprocess.run([WINDOWKV, "inspect", "-hff", "x"], env=self.env, capture_output=True, text=True)
        self.assertEqual(result.returncode, 2)
        result = subprocess.run([WINDOWKV, "inspect"], env=self.env, capture_output=True, text=True)
        self.assertEqual((result.returncode, len(result.stderr.splitlines())), (2, 1))
        self.assertIn("--model is required", result.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[3:], verbosity=1)
