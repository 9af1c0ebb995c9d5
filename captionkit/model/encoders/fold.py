"""Folding batch norms into the convolutions before them, for inference."""

from collections import Counter

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norms(network: nn.Module) -> int:
    """Fold every batch norm that alone reads a convolution into that convolution, in place.

    In eval mode a batch norm scales and shifts each channel, which the convolution's weights can do as well: the values
    stay the same but for rounding, and a pass over each feature map is saved. Fold in fp32, before the weights are
    rounded to bfloat16.

    Args:
        network: in eval mode. Its state dict has other keys afterwards: keep the original for saving.

    Returns:
        How many were folded; 0 for a network whose course torch.fx cannot follow, which stays as it is.
    """
    from torch import fx  # late: only who folds pays for its import

    try:
        graph = network.graph if isinstance(network, fx.GraphModule) else fx.symbolic_trace(network).graph
    except (TypeError, ValueError, RuntimeError, NotImplementedError):  # its forward depends on values
        return 0
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    folded = 0
    for node in graph.nodes:
        if node.op != "call_module":
            continue
        norm = network.get_submodule(node.target)
        if type(norm) is not nn.BatchNorm2d:  # others do more than normalise: timm's are activations too
            if next(norm.children(), None) is not None:  # torchvision's own blocks, which its extractor does not enter
                folded += fold_batch_norms(norm)
            continue
        before = node.args[0]
        if before.op != "call_module" or len(before.users) > 1 or calls[node.target] > 1 or calls[before.target] > 1:
            continue
        conv = network.get_submodule(before.target)
        if not isinstance(conv, nn.Conv2d) or norm.running_mean is None:
            continue
        network.set_submodule(before.target, fuse_conv_bn_eval(conv, norm))
        network.set_submodule(node.target, nn.Identity())
        folded += 1
    return folded
