"""A stand-in for a judge: it speaks OpenAI's chat completions, and grades by a rule instead of a model.

    python examples/judge_stand_in.py [PORT]

For trying `http_judge.py` on a machine without a second model. An answer with the reference in it gets 10,
less one for every two further words; any other answer gets 0. It listens on this machine alone.
"""

import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PARTS = re.compile(r"<reference>(.*?)</reference>\s*<answer>(.*)</answer>", re.DOTALL)


def rule(question: str) -> int:
    """The grade of the answer in a question of `http_judge.py`."""
    found = PARTS.search(question)
    if found is None:
        raise ValueError("the question has no <reference> and <answer>")
    reference, answer = found[1].casefold(), found[2].casefold()
    further = len(answer.replace(reference, "", 1).split())
    return max(10 - further // 2, 0) if reference in answer else 0


class Handler(BaseHTTPRequestHandler):
    """POST /v1/chat/completions."""

    def do_POST(self) -> None:  # noqa: N802 - http.server's name
        """Answer a request with a grade."""
        if self.path != "/v1/chat/completions":
            self.send_error(404)
            return
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        message = {"role": "assistant", "content": str(rule(request["messages"][-1]["content"]))}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = json.dumps({"object": "chat.completion", "model": request["model"], "choices": [choice]})
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Print no line for each request."""


class Server(ThreadingHTTPServer):
    """A thread for each request; as many may wait as a judge is asked at once."""

    request_queue_size = 256
    daemon_threads = True


if __name__ == "__main__":
    server = Server(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 8000), Handler)
    print(f"listening on http://127.0.0.1:{server.server_port}/v1", flush=True)
    server.serve_forever()
