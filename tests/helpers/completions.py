"""A server of the OpenAI completions API on 127.0.0.1, in this process, from a local model.

Its log-probabilities are those of the plain logits in double precision.
"""

import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

import torch


class Completions:
    """What the server does, and what it was asked.

    Args:
        lm: the model.
        kind: ``echo`` as vLLM, ``forced`` as llama.cpp's server; what is not read: ``silent`` with
            no log-probabilities, ``shifted`` where those of the echo are of the token before,
            ``biased`` where they are counted with the bias, ``stubborn`` where it does nothing,
            ``leading`` where a token of its own comes before those of the prompt.
        name: what it calls the model.
        room: tokens that fit.
        answers: completions until it is gone; `None` for no end.
        busy: answers 503 to so many completions first.
        key: that it wants.

    Attributes:
        asked: completions that it was asked for.
        texts: what it calls a token.

    """

    def __init__(self, lm, kind="echo", *, name="tiny", room=512, answers=None, busy=0, key=None):
        self.lm = lm
        self.kind = kind
        self.name = name
        self.room = room
        self.answers = answers
        self.busy = busy
        self.key = key
        self.asked = []
        self.lock = Lock()
        self.texts = lambda token: lm.tokenizer.decode([token])

    def models(self):
        return {"object": "list", "data": [{"id": self.name, "max_model_len": self.room}]}

    def complete(self, body):
        before = [256] if self.kind == "leading" else []
        ids = before + body["prompt"]
        assert body["model"] == self.name
        assert body["max_tokens"] == 1
        assert all(type(token) is int for token in ids)
        if len(ids) + 1 > self.room:
            return 400, {"error": {"message": f"{len(ids)} tokens and 1, {self.room} fit"}}
        with torch.no_grad():
            rows = self.lm.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        bias = torch.zeros(rows.shape[1], dtype=torch.double)
        for token, more in body.get("logit_bias", {}).items():
            bias[int(token)] = more * (self.kind != "stubborn")
        biased = (rows[-1] + bias).log_softmax(-1)
        written = int(biased[: len(self.lm.tokenizer)].argmax())  # the others have no text
        if self.kind == "biased":
            rows[-1] = biased
        if self.kind == "silent":
            return 200, {"choices": [{"text": self.texts(written), "logprobs": None}]}
        told = []
        if body.get("echo") and self.kind in ("echo", "shifted", "leading"):
            back = 0 if self.kind == "shifted" else 1
            told = [(token, rows[max(0, at - back)]) for at, token in enumerate(ids)]
            told = told[len(before) :]
        told = [*told, (written, rows[-1])]
        tokens = [self.texts(token) for token, _ in told]
        logs = [float(row[token]) for token, row in told]
        tops = [
            {self.texts(int(token)): float(row[token]) for token in row.topk(body["logprobs"])[1]}
            for _, row in told
        ]
        if self.kind in ("forced", "biased", "stubborn"):
            content = [
                {
                    "id": written,
                    "token": token,
                    "logprob": log,
                    "top_logprobs": [{"token": t, "logprob": p} for t, p in top.items()],
                }
                for token, log, top in zip(tokens, logs, tops, strict=True)
            ]
            return 200, {"choices": [{"logprobs": {"content": content}}]}
        if len(told) > 1:
            logs[0] = tops[0] = None
        found = {"tokens": tokens, "token_logprobs": logs, "top_logprobs": tops}
        return 200, {"choices": [{"logprobs": found}], "usage": {"prompt_tokens": len(ids)}}


@contextmanager
def serving(completions):
    """Serve while the block is entered; gives the URL of the API."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self, code, found):
            text = json.dumps(found).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def refused(self):
            wanted = completions.key and f"Bearer {completions.key}"
            if wanted and self.headers.get("Authorization") != wanted:
                self.answer(401, {"error": {"message": "no key"}})
                return True
            return False

        def do_GET(self):
            if self.path != "/v1/models":
                self.answer(404, {"detail": "Not Found"})
            elif not self.refused():
                self.answer(200, completions.models())

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with completions.lock:  # torch is used by one thread
                completions.asked.append(body)
                gone = completions.answers is not None
                gone = gone and len(completions.asked) > completions.answers
                busy = completions.busy > 0
                completions.busy -= busy
                if gone:
                    self.close_connection = True
                elif busy:
                    self.answer(503, {"error": {"message": "loading"}})
                elif not self.refused():
                    self.answer(*completions.complete(body))

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
