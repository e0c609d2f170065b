//! A headless Chromium, driven through chromedriver.
//!
//! The WebDriver protocol is JSON over HTTP; what it lacks (colour scheme, narrow screens) goes
//! through Chromium's own commands. Every page that is left is asked for its console first:
//! an error there, and a violation of the content security policy is one, fails the story.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use kiln_stdx::process;
use serde_json::{Value, json};

use crate::wait;
use crate::{World, binary, http, sse};

/// WebDriver's code of the End key.
pub const END: char = '\u{e010}';
/// WebDriver's code of the Home key.
pub const HOME: char = '\u{e011}';

/// One browser window. Dropping it ends the browser and its driver.
pub struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
}

/// What the page is to look like.
#[derive(Clone, Copy, Debug)]
pub enum Scheme {
    Light,
    Dark,
}

impl Browser {
    pub fn open(world: &World) -> Self {
        let mut command = world.command("chromedriver");
        command.args(["--port=0", "--log-level=SEVERE"]).stdin(Stdio::null());
        let mut driver = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver starts; `cargo xtask test` installs it");
        let mut lines = BufReader::new(driver.stdout.take().expect("is piped")).lines();
        let port = loop {
            let line = lines.next().expect("chromedriver names its port").expect("text");
            let Some((_, rest)) = line.split_once("successfully on port ") else { continue };
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            break digits.parse::<u16>().expect("a port");
        };
        std::thread::spawn(move || lines.for_each(drop));
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let profile = format!("--user-data-dir={}", world.at("chromium").display());
        let args = [
            "--headless=new",
            // A browser of root in a container cannot sandbox itself; it only sees our own pages.
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--hide-scrollbars",
            &profile,
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": args},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let answer = http::post(address, "/session", &wanted).expect("chromedriver answers").json();
        let session = answer["value"]["sessionId"].as_str();
        let session = session.unwrap_or_else(|| panic!("no browser: {answer}")).to_owned();
        Self { driver, address, session }
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let path = format!("/session/{}{path}", self.session);
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let answer = http::request(self.address, method, &path, &[], body.as_bytes());
        let answer = answer.expect("chromedriver answers").json();
        let error = &answer["value"]["error"];
        assert!(error.is_null(), "{method} {path}: {}", answer["value"]["message"]);
        answer["value"].clone()
    }

    pub fn go(&self, url: &str) {
        self.call("POST", "/url", &json!({ "url": url }));
    }

    pub fn address(&self) -> String {
        self.call("GET", "/url", &Value::Null).as_str().unwrap_or_default().to_owned()
    }

    /// The value of a script's `return`.
    pub fn run(&self, script: &str) -> Value {
        self.call("POST", "/execute/sync", &json!({"script": script, "args": []}))
    }

    /// The text that a person sees.
    pub fn text(&self) -> String {
        let text = self.run("return document.body.innerText");
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the page shows `text`, whatever its case.
    #[track_caller]
    pub fn sees(&self, text: &str) {
        let wanted = text.to_lowercase();
        let mut last = String::new();
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait::until(text, || {
                last = self.text();
                last.to_lowercase().contains(&wanted).then_some(())
            });
        }));
        assert!(found.is_ok(), "the page never showed `{text}`:\n{last}");
    }

    /// Waits until a script's value is true.
    #[track_caller]
    pub fn holds(&self, what: &str, script: &str) {
        wait::until(what, || (self.run(script) == true).then_some(()));
    }

    /// Clicks the first button or link that reads `label`, as a mouse does.
    pub fn click(&self, label: &str) {
        let script = format!(
            "const seen = e => e.getClientRects().length > 0;\
             return [...document.querySelectorAll('button, a, summary, input[type=submit]')].find(e =>\
             seen(e) && (e.innerText || e.value || e.textContent || '').trim().toLowerCase() === {}) || null",
            json!(label.to_lowercase())
        );
        let element = wait::until(&format!("a button `{label}`"), || {
            let found = self.run(&script);
            let id = found.as_object()?.values().next()?.as_str()?.to_owned();
            Some(id)
        });
        self.call("POST", &format!("/element/{element}/click"), &json!({}));
    }

    /// Presses one key in the page: a character, or WebDriver's code for a key without one.
    pub fn press(&self, key: char) {
        let strokes = json!([{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]);
        let actions = json!({"actions": [{"type": "key", "id": "keys", "actions": strokes}]});
        self.call("POST", "/actions", &actions);
    }

    /// The text of the log's window, wherever the page keeps it.
    pub fn log_text(&self) -> String {
        let text = self.run(
            "const view = document.querySelector('log-view');\
             return view ? (view.shadowRoot ? view.shadowRoot.textContent : view.innerText) : ''",
        );
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the log's window has a line.
    #[track_caller]
    pub fn log_shows(&self, line: &str) {
        wait::until(&format!("the log shows `{line}`"), || {
            self.log_text().lines().any(|shown| shown.contains(line)).then_some(())
        });
    }

    pub fn look(&self, scheme: Scheme, width: u32, height: u32) {
        let scheme = match scheme {
            Scheme::Light => "light",
            Scheme::Dark => "dark",
        };
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.chromium("Emulation.setEmulatedMedia", &json!({ "features": features }));
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.chromium("Emulation.setDeviceMetricsOverride", &metrics);
    }

    fn chromium(&self, command: &str, params: &Value) -> Value {
        self.call("POST", "/goog/cdp/execute", &json!({"cmd": command, "params": params}))
    }

    /// Keeps a picture as `target/screenshots/NAME.png`.
    pub fn picture(&self, name: &str) {
        let folder: PathBuf = binary::target().join("screenshots");
        std::fs::create_dir_all(&folder).expect("the folder for pictures");
        let png = self.call("GET", "/screenshot", &Value::Null);
        let bytes = sse::unbase64(png.as_str().expect("base64"));
        std::fs::write(folder.join(format!("{name}.png")), bytes).expect("the picture");
    }

    /// Pictures of this page in both schemes, wide and narrow.
    pub fn pictures(&self, name: &str) {
        for (scheme, scheme_name) in [(Scheme::Dark, "dark"), (Scheme::Light, "light")] {
            for (width, height, shape) in [(390, 844, "narrow"), (1280, 800, "wide")] {
                self.look(scheme, width, height);
                self.picture(&format!("{name}-{scheme_name}-{shape}"));
            }
        }
    }

    /// Fails when the console has an error since the last call.
    #[track_caller]
    pub fn is_clean(&self) {
        let errors = self.errors();
        assert!(errors.is_empty(), "the console has errors: {errors:#?}");
    }

    /// Asserts that the console has errors and that each has `text` in it; they are forgotten then.
    #[track_caller]
    pub fn complains(&self, text: &str) {
        let errors = self.errors();
        let is_it = |error: &Value| error["message"].as_str().is_some_and(|it| it.contains(text));
        assert!(!errors.is_empty() && errors.iter().all(is_it), "not only `{text}`: {errors:#?}");
    }

    /// The console's errors since it was last asked for them.
    fn errors(&self) -> Vec<Value> {
        let mut log = self.call("POST", "/se/log", &json!({"type": "browser"}));
        let mut entries = log.as_array_mut().map(std::mem::take).unwrap_or_default();
        entries.retain(|entry| entry["level"] == "SEVERE");
        entries
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let path = format!("/session/{}", self.session);
        // The browser may have crashed; the driver is ended in any case.
        let _ = http::request(self.address, "DELETE", &path, &[], b"");
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// Whether a program is there; stories that need one say so at once.
pub fn needs(program: &str) {
    let found = process::any_output(process::command(program).arg("--version"));
    assert!(found.is_ok(), "this story needs `{program}`; `cargo xtask test` installs it");
}
