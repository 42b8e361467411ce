"""A server of a few lines: what happens to processes and connections is tested without a model behind it.

python stub_server.py serve stub --port=8000 [--child] [--stubborn] [--slow] [--dies]
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Stub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self._send({"status": "ok"})

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        print("asked", flush=True)
        if "--slow" in sys.argv:
            time.sleep(60)
        self._send({"error": {"message": "nobody is at home"}}, 404)

    def _send(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


if "--child" in sys.argv:
    # The child would outlive a SIGTERM, as a worker that hangs does.
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    print("child", subprocess.Popen([sys.executable, "-c", deaf]).pid, flush=True)
if "--stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "--dies" in sys.argv:
    threading.Timer(2, os._exit, [7]).start()
print("the stub listens", flush=True)
port = next(int(part.split("=")[1]) for part in sys.argv if part.startswith("--port="))
ThreadingHTTPServer(("127.0.0.1", port), Stub).serve_forever()
