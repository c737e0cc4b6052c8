#!/usr/bin/env python3
"""The page of `windowkv serve`, in headless Chromium.
    web_page_test.py WINDOWKV-BINARY MODEL [PAGE.html]
Needs Debian's chromium, chromium-driver and python3-selenium; without them it exits with 77. The model may be any:
its chat template is set here.
"""
import json, os, pathlib, re, shutil, subprocess, sys, tempfile, threading, time, unittest

try:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait
except ImportError:
    webdriver = None

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not (webdriver and CHROMIUM and DRIVER):
    print("skipped: needs chromium, chromium-driver and python3-selenium")
    sys.exit(77)
if len(sys.argv) not in (3, 4):
    sys.exit(__doc__)
WINDOWKV, MODEL, PAGE = sys.argv[1], sys.argv[2], sys.argv[3:]
KEY = "secret-key"
PATIENCE = 30  # seconds
ATTACK = '<script>window.attacked = 1</script><img src=x onerror="window.attacked = 2">'
# For the documents, which the model reads at once and not in the time that a test has.
DOCUMENT = "".join(f"Line {i} of the report says that nothing happened.\n" for i in range(20))

# What the page says to the server, and what a server in a bad state would answer.
SPY = """
window.sent = [];
window.bad = [];
const real = window.fetch;
window.fetch = async (path, options) => {
  if (typeof options?.body === 'string') window.sent.push(JSON.parse(options.body));
  const bad = path.includes('completions') && window.bad.shift();
  if (bad === 'down') throw new TypeError('Failed to fetch');
  if (bad === 'slow') await new Promise((_, reject) => options.signal.addEventListener('abort', () => reject(options.signal.reason)));
  if (bad) return new Response(JSON.stringify({error: {message: bad.message, code: bad.code}}),
                               {status: bad.status, headers: {'Retry-After': '1'}});
  return real(path, options);
};
"""


class Server:
    def __init__(self, *options):
        page = ["--web-page", PAGE[0]] if PAGE else []
        self.process = subprocess.Popen(
            [WINDOWKV, "serve", "-m", MODEL, "--port", "0", "-t", "1", "--chat-template", "chatml", *page, *options],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.url, log = "", []
        for line in self.process.stderr:
            log.append(line)
            found = re.search(r"listening on (http://\S+)", line)
            self.url = found[1] if found else self.url
            if "ready" in line:
                break
        if not self.url:
            sys.exit("the server did not start:\n" + "".join(log))
        # It must not block on a full pipe.
        self.reader = threading.Thread(target=self.process.stderr.read, daemon=True)
        self.reader.start()

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.reader.join()
        self.process.stderr.close()


def start_browser(folder):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                     "--window-size=1000,800", f"--user-data-dir={folder}/profile"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(service=Service(DRIVER), options=options)
    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": SPY})
    return browser


def setUpModule():
    global browser, server, folder
    folder = tempfile.TemporaryDirectory(prefix="windowkv-page-", ignore_cleanup_errors=True)
    server = Server()
    browser = start_browser(folder.name)


def tearDownModule():
    browser.quit()
    server.stop()
    folder.cleanup()


def until(condition, what):
    return WebDriverWait(browser, PATIENCE, poll_frequency=0.05).until(lambda _: condition(), "no " + what)


def at(selector):
    return browser.find_element(By.CSS_SELECTOR, selector)


def all_at(selector):
    return browser.find_elements(By.CSS_SELECTOR, selector)


def script(text, *arguments):
    return browser.execute_script(text, *arguments)


def named(name):
    return next(one for one in all_at("button") if one.is_displayed() and one.text == name)


def set_value(selector, value):
    script("""arguments[0].value = arguments[1];
              arguments[0].dispatchEvent(new Event('input', {bubbles: true}));""", at(selector), value)


def answering():
    return at("#stop").is_displayed()


def ask(question, wait=True):
    at("#question").send_keys(question.replace("\n", Keys.SHIFT + Keys.ENTER + Keys.NULL) + Keys.ENTER)
    if wait:
        until(lambda: not answering() and all_at(".turn .actions button"), "answer")


def facts():
    return all_at(".turn .facts")[-1].text


def last_sent():
    return script("return window.sent.at(-1)")


def write(name, text):
    path = pathlib.Path(folder.name) / name
    path.write_text(text)
    return str(path)


def pdf(text):
    page = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET"
    return ("%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
            "3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R"
            f"/Resources<</Font<</F1 5 0 R>>>>>>endobj\n4 0 obj<</Length {len(page)}>>stream\n{page}\nendstream endobj\n"
            "5 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n")


def upload(name, text):
    at("#files").send_keys(write(name, text))
    until(lambda: name in at("#documents").text, "document")


class Page(unittest.TestCase):
    def setUp(self):
        browser.get(server.url)
        # The page saves as it goes; what listens later has the last word.
        script("sessionStorage.clear(); addEventListener('pagehide', () => localStorage.clear())")
        browser.get(server.url)
        until(lambda: "context of" in at("#model").text, "connection")
        set_value("[name=maxTokens]", "16")

    def tearDown(self):
        severe = [line["message"] for line in browser.get_log("browser")
                  if line["level"] == "SEVERE" and "Failed to load resource" not in line["message"]]
        self.assertEqual(severe, [])

    def test_answers_as_it_is_written(self):
        set_value("[name=maxTokens]", "120")
        script("""window.lengths = new Set();
                  new MutationObserver(() => window.lengths.add(document.querySelector('.answer')?.textContent.length))
                    .observe(document.getElementById('log'), {subtree: true, childList: true, characterData: true});""")
        ask("Tell me a story about a ship that sails along a coast in winter and what its crew finds there")
        answer = at(".answer").text
        self.assertGreater(len(answer), 0)
        self.assertGreater(script("return window.lengths.size"), 2, "it came at once")
        self.assertEqual(at("#announcer").get_attribute("textContent").strip()[:10], answer[:10])
        for fact in ("prompt tokens", "read for each token", "KV cache", "saved", "first token after", "tokens/s"):
            self.assertIn(fact, facts())
        named("Copy answer").click()
        until(lambda: any(one.text == "Copied" for one in all_at("button")), "copy")
        ask("And another")
        roles = [message["role"] for message in last_sent()["messages"]]
        self.assertEqual(roles, ["user", "assistant", "user"])
        self.assertIn("from a stored prefix", facts())
        named("Regenerate").click()
        until(lambda: not answering() and "tokens/s" in facts(), "second answer")
        self.assertEqual(len(all_at(".turn")), 2)
        self.assertEqual(len(last_sent()["messages"]), 3)

    def test_stops(self):
        for way in (lambda: at("#stop").click(), lambda: at("#question").send_keys(Keys.ESCAPE)):
            set_value("[name=maxTokens]", "8000")
            ask("Tell me a story", wait=False)
            until(lambda: len(all_at(".answer")[-1].text) > 20, "answer under way")
            way()
            until(lambda: not answering(), "end of the answer")
            self.assertIn("stopped", facts())
            length = len(all_at(".answer")[-1].text)
            time.sleep(0.2)
            self.assertEqual(len(all_at(".answer")[-1].text), length)
        script("window.bad = ['slow']")
        ask("Too slow", wait=False)
        until(lambda: "reading the prompt" in facts(), "progress")
        named("Stop").click()
        until(lambda: not answering(), "end of the answer")
        self.assertEqual((len(all_at(".turn")), at("#question").get_property("value")), (2, "Too slow"))
        set_value("[name=maxTokens]", "8")
        ask("Still there?")
        self.assertIn("prompt tokens", facts())

    def test_budget(self):
        ask("Hello there, how are you on this fine day?")
        self.assertIn("budget 12 %, at least 1,024", facts())
        self.assertIn("all read", facts())
        at("#floor").click()
        at("#percent").send_keys(Keys.ARROW_RIGHT * 13)
        self.assertEqual(at("#budget-text").text, "25 % of the prompt")
        ask("And you?")
        self.assertIn("budget 25 %", facts())
        self.assertRegex(facts(), r"\b[1-9]\d? % saved")
        at("#percent").send_keys(Keys.END)
        ask("And all of you?")
        self.assertIn("full cache", facts())
        named("Default").click()
        self.assertEqual((at("#budget-text").text, at("#floor").is_selected()), ("12 % of the prompt", True))

    def test_shows_what_is_read(self):
        at("#floor").click()
        upload("report.txt", DOCUMENT)
        ask("What happened?")
        named("What the model reads").click()
        classes = {one.get_attribute("class") for one in all_at("#kept-text span")}
        self.assertGreater(len(classes), 1, classes)
        self.assertTrue(all(re.fullmatch("share-[0-4]", one) for one in classes))
        self.assertIn("Line 17 of the report", at("#kept-text").text)
        self.assertIn("What happened?", at("#kept-text").text)
        self.assertEqual(len(all_at("#legend li")), 5)
        self.assertRegex(at("#legend").text, r"11 – 30 % \(\d+ % of the text\)")
        at("#kept-text").send_keys(Keys.ESCAPE)
        until(lambda: not at("#kept-dialog").is_displayed(), "closed dialog")

    @unittest.skipUnless(shutil.which("pdftotext"), "no pdftotext here")
    def test_pdf_documents(self):
        upload("paper.pdf", pdf("Words of a page"))
        at("#files").send_keys(write("broken.pdf", "%PDF-1.4 and then nothing"))
        until(lambda: "broken.pdf: reading the PDF file fails" in at("#notice").text, "refusal")
        ask("What does it say?")
        self.assertIn("Words of a page", last_sent()["messages"][0]["content"])

    def test_documents(self):
        upload("report.txt", DOCUMENT)
        upload("page.html", "<style>p {}</style><h1>Title</h1><p>One &amp; two</p><script>var hidden = 1</script>")
        self.assertRegex(at("#documents").text, r"report\.txt \d\.\d KiB, about \d+ tokens")
        at("#files").send_keys(write("picture.png", "no"))
        until(lambda: "picture.png is not a .txt, .md, .html or .pdf file" in at("#notice").text, "refusal")
        ask("What does it say?")
        content = last_sent()["messages"][0]["content"]
        self.assertIn("Line 0 of the report", content)
        self.assertRegex(content, r"Title\s+One & two")
        self.assertNotIn("hidden", content)
        self.assertTrue(content.endswith("What does it say?"))
        script("""const data = new DataTransfer();
                  data.items.add(new File(['Dropped text'], 'dropped.txt'));
                  window.dispatchEvent(new DragEvent('drop', {dataTransfer: data, cancelable: true}));""")
        until(lambda: "dropped.txt" in at("#documents").text, "dropped document")
        next(one for one in all_at("#documents button") if one.accessible_name == "Remove report.txt").click()
        ask("And now?")
        content = last_sent()["messages"][0]["content"]
        self.assertNotIn("Line 0", content)
        self.assertIn("Dropped text", content)

    def test_too_long(self):
        upload("long.txt", DOCUMENT * 120)
        self.assertIn("probably too long", at("#size-warning").text)
        ask("What?", wait=False)
        until(lambda: "Too long: the prompt has" in at("#notice").text, "refusal")
        self.assertIn("Remove or shorten a document", at("#notice").text)
        self.assertEqual((at("#question").get_property("value"), len(all_at(".turn"))), ("What?", 0))

    def test_outlives_a_reload(self):
        upload("report.txt", DOCUMENT)
        ask("Who are you?")
        before = at("#log").text
        browser.refresh()
        until(lambda: all_at(".turn"), "conversation")
        self.assertEqual(at("#log").text, before)
        self.assertIn("report.txt", at("#documents").text)
        named("New conversation").click()
        self.assertEqual((len(all_at(".turn")), at("#documents").is_displayed()), (0, False))
        named("Undo").click()
        self.assertEqual(at("#log").text, before)
        upload("large.txt", "many words " * 100_000)
        self.assertIn("gone after a reload", at("#documents").text)
        browser.refresh()
        until(lambda: "Too large to be kept over a reload: large.txt" in at("#notice").text, "notice")
        self.assertEqual(at("#log").text, before)
        named("New conversation").click()
        browser.refresh()
        until(lambda: all_at("#welcome"), "welcome")
        self.assertEqual(len(all_at(".turn")), 0)

    def test_runs_nothing_of_a_text(self):
        upload("attack.md", ATTACK)
        upload("attack.html", "<p>before</p>" + ATTACK)
        ask(ATTACK + "\n`" + ATTACK + "`")
        self.assertIn(ATTACK, at(".question").text)
        named("What the model reads").click()
        self.assertEqual(at("#kept-text").text.count("onerror="), 3)
        # As if a model had written it, read from storage.
        script("""const chat = JSON.parse(localStorage.getItem('windowkv.chat'));
                  chat.turns[0].answer = arguments[0];
                  addEventListener('pagehide', () => localStorage.setItem('windowkv.chat', JSON.stringify(chat)));""",
               f"{ATTACK}\n\n- **{ATTACK}**\n\n```\n{ATTACK}\n```\n# {ATTACK}")
        browser.refresh()
        until(lambda: all_at(".answer li strong"), "answer")
        self.assertEqual(at(".answer").text.count(ATTACK), 4)
        time.sleep(0.2)
        self.assertIsNone(script("return window.attacked ?? null"))
        self.assertEqual(len(all_at("#log img, #log script, #kept-text img")), 0)

    def test_draws_markdown(self):
        script("""localStorage.setItem('windowkv.chat', JSON.stringify({turns: [{question: 'Q', answer: arguments[0]}]}));
                  const saved = localStorage.getItem('windowkv.chat');
                  addEventListener('pagehide', () => localStorage.setItem('windowkv.chat', saved));""",
               "A **bold** `x*y`\n\n3. three\n   - inner\n4. four\n\n```c\nint **p;\n```\nEnd")
        browser.refresh()
        until(lambda: all_at(".answer p"), "answer")
        html = at(".answer").get_attribute("innerHTML")
        for part in ("<strong>bold</strong>", "<code>x*y</code>", '<ol start="3"><li>three<ul><li>inner</li></ul></li><li>four',
                     "<code>int **p;</code>", "<p>End</p>"):
            self.assertIn(part, html)

    def test_bad_states(self):
        for bad, text in (("down", "The server does not answer"),
                          ({"status": 429, "message": "9 requests are waiting already"}, "The server is busy"),
                          ({"status": 500, "message": "out of order"}, "could not answer: out of order")):
            script("window.bad = [arguments[0]]", bad)
            ask("Hello?", wait=False)
            until(lambda: text in at("#notice").text, text)
            named("Try again").click()
            until(lambda: not answering() and all_at(".turn .actions button"), "answer")
            self.assertFalse(at("#notice").is_displayed())
            named("New conversation").click()
        script("window.bad = [arguments[0], arguments[0]]", {"status": 503, "code": "loading_model", "message": "loading"})
        ask("Hello?", wait=False)
        until(lambda: "still loading" in at("#notice").text, "notice")
        until(lambda: not answering() and all_at(".turn .actions button"), "answer")

    def test_broken_off(self):
        failing = Server()
        self.addCleanup(failing.stop)
        browser.get(failing.url)
        until(lambda: "context of" in at("#model").text, "connection")
        set_value("[name=maxTokens]", "8000")
        ask("Tell me a story", wait=False)
        until(lambda: all_at(".answer") and len(at(".answer").text) > 20, "answer under way")
        failing.process.kill()
        until(lambda: "The server does not answer" in at("#notice").text, "notice")
        self.assertIn("broken off", facts())
        self.assertGreater(len(at(".answer").text), 20)

    def test_narrow(self):
        upload("a-document-with-a-very-long-name-that-must-not-widen-the-page.txt", DOCUMENT)
        ask("w" * 300)
        for width in (360, 1000):
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                                    {"width": width, "height": 700, "deviceScaleFactor": 1, "mobile": False})
            wide = """return [...document.querySelectorAll('body *:not(.visually-hidden, .skip, datalist *)')]
                .filter((one) => one.checkVisibility() && one.getBoundingClientRect().right > innerWidth + 1)
                .map((one) => one.outerHTML.slice(0, 80));"""
            self.assertEqual(script(wide), [])
            named("Settings").click()
            self.assertEqual(script(wide), [])
            at("#settings [name=system]").send_keys(Keys.ESCAPE)
            named("What the model reads").click()
            self.assertEqual(script(wide), [])
            at("#kept-text").send_keys(Keys.ESCAPE)
            self.assertEqual(script("return [document.documentElement.scrollWidth, document.getElementById('conversation')"
                                    ".scrollWidth].every((one) => one <= innerWidth)"), True)
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def test_accessible(self):
        upload("report.txt", DOCUMENT)
        ask("Who are you?")
        self.check_names("body", 12)
        script("document.getElementById('settings').showPopover()")
        self.check_names("#settings", 5)
        for dialog, controls in (("key", 3), ("kept", 1)):
            script(f"document.getElementById('{dialog}-dialog').showModal()")
            self.check_names(f"#{dialog}-dialog", controls)
            script(f"document.getElementById('{dialog}-dialog').close()")
        self.assertTrue(at("#files").get_attribute("aria-label"))
        for selector, role in (("header", "banner"), ("main", "main"), ("#composer", "form"), ("#log", "log")):
            self.assertEqual(at(selector).aria_role, role)
        for selector in ("#announcer", "#notice"):
            self.assertTrue(at(selector).get_attribute("aria-live") or at(selector).get_attribute("role"))

    def check_names(self, where, at_least):
        shown = [one for one in at(where).find_elements(By.CSS_SELECTOR, "button, input, select, textarea")
                 if one.is_displayed()]
        self.assertGreaterEqual(len(shown), at_least)
        for one in shown:
            self.assertTrue(one.accessible_name.strip(), one.get_attribute("outerHTML"))

    def test_api_key(self):
        locked = Server("--api-key", KEY)
        self.addCleanup(locked.stop)
        browser.get(locked.url)
        for key in ("wrong", KEY):
            until(lambda: at("#key-dialog").is_displayed(), "question for the key")
            self.assertEqual(at("#key-wrong").is_displayed(), key == KEY)
            at("#key").send_keys(key + Keys.ENTER)
            until(lambda: at("#key").get_property("value") == "", "use of the key")
        until(lambda: "context of" in at("#model").text, "connection")
        set_value("[name=maxTokens]", "8")
        ask("Hello")
        self.assertNotIn(KEY, script("return JSON.stringify(localStorage)"))
        named("Settings").click()
        named("Forget the key").click()
        self.assertIsNone(script("return sessionStorage.getItem('windowkv.key')"))
        at("#settings [name=system]").send_keys(Keys.ESCAPE)
        ask("Hello", wait=False)
        until(lambda: at("#key-dialog").is_displayed(), "question for the key")
        named("Cancel").click()
        until(lambda: "needs an API key" in at("#notice").text, "notice")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
