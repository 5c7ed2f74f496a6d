"""Runs inside the engine's workers (worker_extension_cls): keeps what passed the head, and changes things on request.

It looks at vLLM's own objects from outside, so it sees the same whether or not isologit is in force.
"""

import torch
from safetensors.torch import load_file
from vllm.v1.sample.ops import topk_topp_sampler

import isologit

# vLLM's attention uses AMX tiles without asking for them; a larger model's linear layers would have asked.
torch.cpu._init_amx()


class Recorder:
    def record(self) -> None:
        self.steps: list[dict] = []
        self.prompts: list[dict] = []
        runner, model = self.model_runner, self.get_model()
        compute_logits = type(model).compute_logits
        prompt_logprobs = runner._get_prompt_logprobs_dict
        apply_cuts = topk_topp_sampler.apply_top_k_top_p
        greedy = runner.sampler.greedy_sample
        in_prompt = []

        def recorded_logits(hidden):
            logits = compute_logits(model, hidden)
            if logits is not None:
                kept = {"hidden": hidden.clone(), "logits": logits.clone()}
                if in_prompt:
                    self.prompts.append(kept)
                else:
                    # A row in the middle of a prompt, or of what a preempted request has to compute again, gives none.
                    unused = runner.discard_request_mask.np.tolist()
                    names = zip(runner.input_batch.req_ids[: len(logits)], unused, strict=False)
                    self.steps.append({"requests": [None if skip else _request(name) for name, skip in names], **kept})
            return logits

        def recorded_prompts(*args):
            in_prompt.append(True)
            try:
                return prompt_logprobs(*args)
            finally:
                in_prompt.pop()

        def recorded_cuts(logits, k, p):
            result = apply_cuts(logits, k, p)
            self.steps[-1]["final"] = result.clone()
            return result

        def recorded_greedy(logits):
            self.steps[-1]["final"] = logits.clone()
            return greedy(logits)

        def before_sampling(_, args, kwargs):  # a grammar's mask lies on these
            self.steps[-1]["given"] = (args[0] if args else kwargs["logits"]).clone()

        def before_cuts(_, args):
            self.steps[-1]["scaled"] = args[0].clone()

        hooks = [
            runner.sampler.register_forward_pre_hook(before_sampling, with_kwargs=True),
            runner.sampler.topk_topp_sampler.register_forward_pre_hook(before_cuts),
        ]
        model.compute_logits = recorded_logits
        runner._get_prompt_logprobs_dict = recorded_prompts
        topk_topp_sampler.apply_top_k_top_p = recorded_cuts
        runner.sampler.greedy_sample = recorded_greedy

        def stop():
            for hook in hooks:
                hook.remove()
            del model.compute_logits, runner.sampler.greedy_sample
            runner._get_prompt_logprobs_dict = prompt_logprobs
            topk_topp_sampler.apply_top_k_top_p = apply_cuts

        self.stop = stop

    def recorded(self, path: str) -> None:
        self.stop()
        if self.rank == 0:
            torch.save((self.steps, self.prompts), path)

    def head_weight(self, path: str) -> None:
        """Of rank 0: where there are more, of its shard."""
        if self.rank == 0:
            model = self.get_model()
            head = model.lm_head if hasattr(model, "lm_head") else model.model.embed_tokens
            torch.save(head.weight.data.clone(), path)

    def scale_norm(self, factor: float) -> None:
        """Hidden states, and so logits, become this many times as large: a peaked distribution."""
        self.get_model().model.norm.weight.data.mul_(factor)

    def scale_head(self, factor: float) -> None:
        """In place, as trainers write weights into a running engine: no hook is called, no version counted."""
        weight = self.get_model().lm_head.weight
        weight.data.copy_(weight.data * factor)

    def load_head(self, factor: float) -> None:
        """By the model's own loader, from the checkpoint's names."""
        whole = self.get_model().model.embed_tokens.weight.data * factor
        self.get_model().load_weights([("model.embed_tokens.weight", whole)])

    def load_head_of(self, path: str) -> None:
        """By the model's own loader; of layers in its body vLLM's CPU build has emptied the weights."""
        self.get_model().load_weights([("lm_head.weight", load_file(path)["lm_head.weight"])])

    def gather_prompts(self, gather: bool) -> None:
        """Prompt logprobs of gathered logits, where ranks would keep theirs."""
        prompts = self.model_runner._get_prompt_logprobs_dict
        if gather:
            assert prompts._own is not None
            self.own_logits = prompts._own
        prompts._own = None if gather else self.own_logits

    def negate_head_rows(self, rows: list[int]) -> None:
        weight = self.get_model().lm_head.weight
        weight.data[rows] = -weight.data[rows]

    def mutate(self, name: str, rank: int | None = None) -> None:
        """Puts something wrong, which a test must notice, in the place of what is right, until repair(). rank: the only
        one that goes wrong."""
        self.repair = lambda: None
        if rank not in (None, self.rank):
            return
        layer, sampler = self.get_model().logits_processor, self.model_runner.sampler
        layer = getattr(layer, "base_layer", layer)  # in the wrapper for LoRA
        right_head, right_logprobs = layer._apply_head, sampler.compute_logprobs
        cached = self.get_model().lm_head.weight.data.clone()

        def cached_weight(lm_head, hidden, bias):
            current, lm_head.weight.data = lm_head.weight.data, cached
            try:
                return right_head(lm_head, hidden, bias)
            finally:
                lm_head.weight.data = current

        heads = {
            "f32 products": lambda lm_head, hidden, bias: torch.nn.functional.linear(
                hidden.float(), lm_head.weight.float(), bias
            ),
            "bf16 logits": lambda *args: right_head(*args).bfloat16().float(),
            "cached weight": cached_weight,
            "head off": lambda *args: super(type(layer), layer)._apply_head(*args),
        }
        logprobs = {
            "logprobs off": type(sampler).compute_logprobs,
            "log_softmax in f64": lambda logits: logits.double().log_softmax(-1).float(),
        }
        right_draws = isologit.sample_of_logits

        def draws(change):
            return lambda logits, **numbers: right_draws(logits, **numbers | change(numbers))

        drawn = {
            "the position before": draws(lambda numbers: {"position": numbers["position"] - 1}),
            "place in the batch": draws(lambda numbers: {"sequence_id": torch.arange(len(numbers["sequence_id"]))}),
            "one seed for all": draws(lambda numbers: {"seed": 0}),
            "no top_p": draws(lambda numbers: {"top_p": 1.0}),
        }
        layer._apply_head = heads.get(name, right_head)
        sampler.compute_logprobs = logprobs.get(name, right_logprobs)
        isologit.sample_of_logits = drawn.get(name, right_draws)

        def repair():
            del layer._apply_head
            sampler.compute_logprobs = right_logprobs
            isologit.sample_of_logits = right_draws

        self.repair = repair


def _request(name: str) -> str:
    """Inside, vLLM adds a random suffix to a request's id."""
    return name.rsplit("-", 1)[0]
