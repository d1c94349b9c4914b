#!/usr/bin/python3
"""The smallest browser around WebKitGTK: WebKitWebDriver starts and controls it.

MiniBrowser, which it would take, neither runs scripts before a page's own, nor tells what a page's
console said. `webkit_browser.py SCRIPT...`, in the Python of the system, which has GTK; a script is
a file. What pages say goes to stdout, each a line of JSON. Nobody is asked for the microphone: who
is controlled by a WebDriver has it.
"""

import sys
from pathlib import Path

import gi

gi.require_version("Gtk", "3.0")
gi.require_version("WebKit2", "4.1")
from gi.repository import Gtk, WebKit2  # noqa: E402

CONSOLE = """(() => {
    const say = (type, text) => webkit.messageHandlers.said.postMessage([type, String(text)]);
    for (const type of ["error", "warn"]) {
        const real = console[type];
        console[type] = (...words) => { say(type, words.join(" ")); real.apply(console, words); };
    }
    addEventListener("error", ({ message, error }) => say("error", error ?? message));
    addEventListener("unhandledrejection", ({ reason }) => say("error", reason));
})();"""


def started(context, session):
    info = WebKit2.ApplicationInfo.new()
    info.set_name("MiniBrowser")
    session.set_application_info(info)
    session.connect("create-web-view", lambda session: free.pop() if free else window())


def said(manager, message):
    print(message.get_js_value().to_json(0), flush=True)


manager = WebKit2.UserContentManager()
manager.register_script_message_handler("said")
manager.connect("script-message-received::said", said)
for source in [CONSOLE, *(Path(script).read_text("utf-8") for script in sys.argv[1:])]:
    manager.add_script(
        WebKit2.UserScript.new(
            source,
            WebKit2.UserContentInjectedFrames.TOP_FRAME,
            WebKit2.UserScriptInjectionTime.START,
            None,
            None,
        )
    )
context = WebKit2.WebContext.new_ephemeral()
context.set_automation_allowed(True)
context.connect("automation-started", started)
settings = WebKit2.Settings()
settings.set_enable_media_stream(True)


def window():
    view = WebKit2.WebView(
        web_context=context,
        user_content_manager=manager,
        settings=settings,
        is_controlled_by_automation=True,
    )
    view.connect("close", lambda view: Gtk.main_quit())
    frame = Gtk.Window(default_width=1280, default_height=800)
    frame.add(view)
    frame.show_all()
    view.grab_focus()  # there is no window manager that would see to it
    return view


free = [window()]  # who controls it asks for the first one, too
Gtk.main()
