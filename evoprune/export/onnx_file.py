"""Networks as ONNX, by torch's exporter, an optional extra: ``pip install evoprune[onnx]``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evoprune.errors import InputError
from evoprune.export.quiet import quietly

# Protobuf cannot write more.
_MOST = 2**31 - 1


def onnx_file(model: nn.Module, x: Tensor) -> tuple[bytes, float]:
    """Returns a network as an ONNX file for any number of examples, and the largest difference of its outputs to torch's.

    The input is called ``input``, the output ``output``. Both runtimes compute the given examples, together and one alone.

    Args:
        model: The network, in evaluation mode, which takes one tensor and returns one.
        x: At least two examples.

    Raises:
        InputError: The packages are not installed, or torch cannot export the network.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise InputError(f"{error.name} is not installed; pip install 'evoprune[onnx]', or choose another --to.") from error
    if len(x) < 2:
        raise InputError(f"onnx is exported with {len(x)} example; expected two or more, so that the number can vary.")
    try:
        with quietly():
            program = torch.onnx.export(
                model,
                (x,),
                dynamo=True,
                input_names=["input"],
                output_names=["output"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
        assert program is not None
        proto = program.model_proto
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise InputError(f"torch cannot export the network to ONNX: {type(error).__name__}: {said}") from error
    if proto.ByteSize() > _MOST:
        raise InputError(f"the network has {proto.ByteSize():,} bytes as ONNX; expected at most {_MOST:,}.")
    content: bytes = proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    differences = []
    for part in (x, x[:1]):
        (found,) = session.run(None, {"input": part.numpy()})
        with torch.no_grad():
            differences.append(float((torch.from_numpy(found) - model(part)).abs().max()))
    return content, max(differences)
