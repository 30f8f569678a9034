//! A headless Chromium over its debugging pipe: what a reader's browser makes of a page.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

/// A browser on a busy machine is slow, and one that hangs must not hang the tests.
const PATIENCE: Duration = Duration::from_secs(120);

/// Looks at the page from inside. The page's own policy forbids scripts; a debugger's are not the page's.
const AUDIT: &str = r#"(async () => {
    document.querySelectorAll("details").forEach(one => one.open = true);
    const images = [...document.images];
    await Promise.all(images.map(image => image.decode().catch(() => {})));
    const all = [...document.querySelectorAll("*")];
    const root = document.documentElement;
    // Each chart is there in two layouts, one of which is shown.
    const charts = [...document.querySelectorAll("figure > svg[role=img]")].filter(one => one.getBoundingClientRect().width > 0);
    return {
        n_images: images.length,
        n_broken_images: images.filter(image => !(image.complete && image.naturalWidth > 0)).length,
        n_scripts: document.scripts.length,
        n_handlers: all.filter(one => [...one.attributes].some(attribute => attribute.name.startsWith("on"))).length,
        foreign: all.filter(one => one.matches("iframe, object, embed, link, form, base, video, audio")).map(one => one.tagName),
        headings: [...document.querySelectorAll("h1, h2, h3, h4")].map(one => one.textContent),
        n_charts: charts.length,
        n_titled_charts: charts
            .filter(one => one.getAttribute("aria-labelledby").split(" ").every(id => document.getElementById(id))).length,
        n_tables: document.querySelectorAll("table").length,
        cut_columns: [...document.querySelectorAll(".scroll")].flatMap(box => {
            const edge = box.getBoundingClientRect().right + 1;
            return [...box.querySelectorAll("thead th")].filter(head => head.getBoundingClientRect().right > edge);
        }).map(head => head.textContent),
        chart_text_px_min: Math.min(...charts.flatMap(svg => {
            const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
            return [...svg.querySelectorAll("text")].map(text => scale * parseFloat(text.getAttribute("font-size")));
        }).filter(size => size > 0)),
        cut_charts: charts.filter(svg => {
            const [box, picture] = [svg.closest("figure").getBoundingClientRect(), svg.getBoundingClientRect()];
            return picture.left < box.left - 1 || picture.right > box.right + 1;
        }).map(svg => svg.querySelector("title").textContent),
        cut_words: charts.flatMap(svg => {
            const picture = svg.getBoundingClientRect();
            return [...svg.querySelectorAll("text")].filter(text => {
                const box = text.getBoundingClientRect();
                return box.left < picture.left - 1 || box.right > picture.right + 1;
            });
        }).map(text => text.textContent),
        overflow: root.scrollWidth - root.clientWidth,
        text: document.body.textContent,
        background: getComputedStyle(document.body).backgroundColor,
        was_taken_over: window.hostile !== undefined,
    };
})()"#;

/// What a page turned out to be.
#[derive(Debug, Deserialize)]
pub struct Audit {
    /// Images.
    pub n_images: usize,
    /// Those without pixels.
    pub n_broken_images: usize,
    /// Script elements.
    pub n_scripts: usize,
    /// Elements with an event handler.
    pub n_handlers: usize,
    /// Elements that load or send something.
    pub foreign: Vec<String>,
    /// The texts of all headings.
    pub headings: Vec<String>,
    /// Charts.
    pub n_charts: usize,
    /// Charts with a title and a description.
    pub n_titled_charts: usize,
    /// Tables.
    pub n_tables: usize,
    /// Heads of columns that a table's own box does not show without scrolling.
    pub cut_columns: Vec<String>,
    /// Titles of charts that their own box does not show without scrolling.
    pub cut_charts: Vec<String>,
    /// Words of charts that run over a chart's edge.
    pub cut_words: Vec<String>,
    /// The size of the smallest text of all charts as it is shown; absent without charts.
    pub chart_text_px_min: Option<f64>,
    /// By how many pixels the page is wider than the window.
    pub overflow: i64,
    /// All text.
    pub text: String,
    /// The colour of the paper.
    pub background: String,
    /// Whether a script of an answer ran.
    pub was_taken_over: bool,
    /// Addresses that the page asked for, but for itself and data URLs.
    #[serde(default)]
    pub requests: Vec<String>,
    /// Script errors, and whatever else the browser complained of.
    #[serde(default)]
    pub complaints: Vec<String>,
}

/// The window in which a page is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Its width in pixels.
    pub width: u32,
    /// Whether the reader prefers dark pages.
    pub is_dark: bool,
}

/// The browser's program: `EMT_CHROMIUM`, or a usual name on `PATH`.
fn find() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("EMT_CHROMIUM") {
        return Some(PathBuf::from(named));
    }
    let path = std::env::var_os("PATH")?;
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name))).find(|file| file.is_file())
}

/// A running browser.
pub struct Browser {
    process: Child,
    commands: ChildStdin,
    messages: Receiver<Value>,
    n_calls: u64,
    events: Vec<Value>,
    // Deleted at last, when nothing writes into it any more.
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts one; without one it says so, the caller returns, and the word `skipped` is counted.
    pub fn start_or_skip() -> Option<Self> {
        let program = if cfg!(unix) { find() } else { None };
        let Some(program) = program else {
            let _ = writeln!(
                std::io::stderr(),
                "skipped: no chromium on PATH and EMT_CHROMIUM is not set: no page was opened"
            );
            return None;
        };
        let profile = tempfile::tempdir().unwrap();
        // Chromium reads commands from descriptor 3 and writes to 4.
        let mut process = Command::new("sh")
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 1>&2"])
            .arg(program)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"])
            .args(["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"])
            // Whatever tries to leave the machine fails, and is seen.
            .args(["--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=direct://"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let commands = process.stdin.take().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            let mut message = Vec::new();
            while output.read_until(0, &mut message).is_ok_and(|n| n > 0) {
                message.pop();
                let parsed = serde_json::from_slice(&message).expect("messages are JSON");
                message.clear();
                if sender.send(parsed).is_err() {
                    return;
                }
            }
        });
        Some(Self { process, commands, messages, n_calls: 0, events: Vec::new(), _profile: profile })
    }

    fn receive(&mut self, awaited: &str) -> Value {
        self.messages
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|error| panic!("the browser said nothing ({awaited}): {error}"))
    }

    /// Calls a method and returns its result; events that come meanwhile are kept.
    fn call(&mut self, session: &str, method: &str, parameters: Value) -> Value {
        self.n_calls += 1;
        let mut command = json!({ "id": self.n_calls, "method": method, "params": parameters });
        if !session.is_empty() {
            command["sessionId"] = session.into();
        }
        let mut bytes = command.to_string().into_bytes();
        bytes.push(0);
        self.commands.write_all(&bytes).unwrap();
        loop {
            let message = self.receive(method);
            if message["id"] == self.n_calls {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].clone();
            }
            self.events.push(message);
        }
    }

    /// Waits until the document of `loader` and all that belongs to it is loaded.
    fn wait_for_load(&mut self, loader: &Value) {
        let is_loaded = |message: &Value| {
            message["method"] == "Page.lifecycleEvent"
                && message["params"]["name"] == "load"
                && message["params"]["loaderId"] == *loader
        };
        while !self.events.iter().any(is_loaded) {
            let message = self.receive("Page.lifecycleEvent");
            self.events.push(message);
        }
    }

    /// The whole page as PNG, for somebody who wants to look at it (`EMT_SCREENSHOTS` names the folder).
    fn save_picture(&mut self, session: &str, file: &Path) {
        let mut clip = self.call(session, "Page.getLayoutMetrics", json!({}))["cssContentSize"].clone();
        clip["scale"] = 1.into();
        let whole = json!({ "captureBeyondViewport": true, "clip": clip });
        let picture = self.call(session, "Page.captureScreenshot", whole);
        let bytes = STANDARD.decode(picture["data"].as_str().unwrap()).unwrap();
        std::fs::write(file, bytes).unwrap();
    }

    /// Opens the file in a tab of its own and looks at it.
    pub fn audit(&mut self, page: &Path, window: Window) -> Audit {
        self.events.clear();
        let target = self.call("", "Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = self.call("", "Target.attachToTarget", attach)["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Network", "Runtime", "Log"] {
            self.call(&session, &format!("{domain}.enable"), json!({}));
        }
        let size =
            json!({ "width": window.width, "height": 900, "deviceScaleFactor": 1, "mobile": window.width < 600 });
        self.call(&session, "Emulation.setDeviceMetricsOverride", size);
        let scheme = if window.is_dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call(&session, "Emulation.setEmulatedMedia", media);
        let address = format!("file://{}", page.display());
        self.call(&session, "Page.setLifecycleEventsEnabled", json!({ "enabled": true }));
        let loader = self.call(&session, "Page.navigate", json!({ "url": address }))["loaderId"].clone();
        self.wait_for_load(&loader);
        let script = json!({ "expression": AUDIT, "awaitPromise": true, "returnByValue": true });
        let answer = self.call(&session, "Runtime.evaluate", script);
        let mut audit: Audit = serde_json::from_value(answer["result"]["value"].clone())
            .unwrap_or_else(|error| panic!("the page could not be looked at: {error}: {answer}"));
        if let Some(folder) = std::env::var_os("EMT_SCREENSHOTS") {
            let name = format!("{}-{}-{scheme}.png", page.file_stem().unwrap().display(), window.width);
            self.save_picture(&session, &Path::new(&folder).join(name));
        }
        self.call("", "Target.closeTarget", json!({ "targetId": target["targetId"] }));
        let of = |name: &str| self.events.iter().filter(|event| event["method"] == name).collect::<Vec<_>>();
        let requested = of("Network.requestWillBeSent");
        let addresses = requested.iter().filter_map(|event| event["params"]["request"]["url"].as_str());
        audit.requests =
            addresses.filter(|url| *url != address && !url.starts_with("data:")).map(str::to_owned).collect();
        assert!(requested.len() > audit.requests.len(), "the page itself is asked for");
        for name in ["Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"] {
            audit.complaints.extend(of(name).iter().map(|event| event["params"].to_string()));
        }
        audit
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
