"""A weight transfer engine of vLLM whose transport is a file: vLLM's own need GPUs."""

from dataclasses import dataclass

from safetensors.torch import load_file
from vllm.distributed.weight_transfer.base import WeightTransferEngine
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload


@dataclass
class Nothing:
    pass


@dataclass
class Checkpoint:
    path: str


class FileTransfer(WeightTransferEngine):
    init_info_cls = Nothing
    update_info_cls = Checkpoint

    def init_transfer_engine(self, init_info):
        pass

    def start_weight_update(self):
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info):
        self.model.load_weights(load_file(update_info.path).items())

    def finish_weight_update(self):
        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self):
        pass


def register():
    WeightTransferEngineFactory.register_engine("file", FileTransfer)
