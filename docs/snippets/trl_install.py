"""Two steps of TRL's SFTTrainer whose log-probabilities are isologit's."""

import tempfile

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer
from trl.trainer import utils

from isologit.integrations import trl

former = utils._ChunkedLogProbFunction
with tempfile.TemporaryDirectory() as folder:
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained("examples/tiny-qwen3"),
        args=SFTConfig(folder, max_steps=2, use_cpu=True, bf16=False, report_to=[], save_strategy="no"),
        train_dataset=Dataset.from_dict({"text": ["In the beginning God created the heaven and the earth."] * 16}),
        processing_class=AutoTokenizer.from_pretrained("examples/tiny-qwen3"),
    )
    trl.install(trainer)
    before = trl.calls
    trainer.train()

print("calls", trl.calls - before)
trl.uninstall(trainer)
print("TRL's own again:", utils._ChunkedLogProbFunction is former)
