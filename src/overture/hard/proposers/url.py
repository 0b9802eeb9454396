"""Any server that speaks OpenAI's chat completions as proposer, by the standard library alone.

The key comes from the environment variable ``OVERTURE_PROPOSER_KEY`` and nowhere else. Each request has a time limit
and three tries; an answer that cannot be parsed gives no proposal.
"""

import http.client
import json
import os
import urllib.error
import urllib.request
from random import Random

from overture.core.errors import ConfigError, OvertureError
from overture.core.records.hard import Candidate
from overture.hard.proposer import Ask
from overture.hard.proposers.asking import candidates_in, request_of

KEY = "OVERTURE_PROPOSER_KEY"
_TRIES = 3
_MOST_BYTES = 1 << 20


class Url:
    """Asks a server.

    Args:
        address: of the API, such as ``http://localhost:8000/v1``.
        model: the model's name there.
        timeout_s: time limit of one request.

    Raises:
        ConfigError: the address is none.
    """

    def __init__(self, address: str, model: str = "default", timeout_s: float = 60.0) -> None:
        if not address.startswith(("http://", "https://")):
            raise ConfigError("no address of a server", where="--from url:", got=address, wanted="http://HOST/v1")
        self.address, self.model, self.timeout_s = address.rstrip("/"), model, timeout_s

    def propose(self, ask: Ask) -> list[Candidate]:
        """Instructions of one answer.

        Raises:
            OvertureError: no answer in three tries; the last reason is in it.
        """
        return candidates_in(self.write(request_of(ask), ask.random), ask, "url")

    def write(self, request: str, random: Random) -> str:
        """The server's answer to a request.

        Raises:
            OvertureError: no answer in three tries; the last reason is in it.
        """
        del random
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": request}],
            "temperature": 1.0,
            "max_tokens": 1024,
        }
        reason = ""
        for _ in range(_TRIES):
            try:
                return self._answer(body)
            except (OSError, http.client.HTTPException, ValueError, KeyError, IndexError, TypeError) as error:
                reason = f"{type(error).__name__}: {error}"
        raise OvertureError("the proposer gave no answer", where=self.address, got=reason[:200])

    def _answer(self, body: dict[str, object]) -> str:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(
            f"{self.address}/chat/completions", json.dumps(body).encode(), headers, method="POST"
        )
        with urllib.request.urlopen(request, timeout=self.timeout_s) as response:
            raw = response.read(_MOST_BYTES)
        return str(json.loads(raw)["choices"][0]["message"]["content"])
