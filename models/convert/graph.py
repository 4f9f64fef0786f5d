"""ONNX graphs from building blocks shared by all architectures."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .checkpoint import ConvertError

OPSET = 20  # the first with Gelu that tract 0.23 reads
IR_VERSION = 9
# tract folds a constant Cast whose output has at most 4 MiB, and a Concat of folded tensors. A larger f16 weight is therefore cast
# in pieces; otherwise it would be cast at every call (293 instead of 179 ms for the twelve layers of a base model).
FOLD_LIMIT = 1 << 20


class Graph:
    """A graph under construction; values are names."""

    def __init__(self, f16=False):
        self.f16, self.nodes, self.initializers = f16, [], []

    def op(self, kind, *inputs, **attributes):
        """Adds a node and returns its output; numbers and arrays among the inputs become constants."""
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        output = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [output], name=output, **attributes))
        return output

    def split(self, x, parts, axis=-1):
        """Equal parts of `x`."""
        outputs = [f"split_{len(self.nodes)}_{i}" for i in range(parts)]
        self.nodes.append(helper.make_node("Split", [x], outputs, name=outputs[0], axis=axis, num_outputs=parts))
        return outputs

    def constant(self, value):
        """An initialiser: floats as f32, integers as i64."""
        array = np.asarray(value)
        array = np.array(array, np.int64 if array.dtype.kind in "iu" else np.float32, order="C")  # keeps rank 0
        name = f"w_{len(self.initializers)}"
        # Norms and biases, which have one axis, stay in f32: they are small, and their precision matters.
        if self.f16 and array.dtype == np.float32 and array.ndim > 1 and array.size > max(array.shape):
            if np.abs(array).max() > np.finfo(np.float16).max:
                raise ConvertError("a weight is too large for f16: convert without --f16")
            rows = max(1, FOLD_LIMIT // (array.size // len(array)))
            pieces = [array[i : i + rows] for i in range(0, len(array), rows)]
            return self.op("Concat", *map(self.half, pieces), axis=0) if len(pieces) > 1 else self.half(array)
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def half(self, array):
        """An initialiser in f16 behind a Cast to f32."""
        name = f"w_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(array.astype(np.float16), name))
        return self.op("Cast", name, to=TensorProto.FLOAT)

    def linear(self, x, weight, bias=None):
        """`x` times PyTorch's `weight` [out, in], plus `bias`."""
        y = self.op("MatMul", x, weight.T)
        return y if bias is None else self.op("Add", y, bias)

    def layer_norm(self, x, weight, bias, eps):
        return self.op("LayerNormalization", x, weight, bias, axis=-1, epsilon=float(eps))

    def conv(self, x, weight, bias=None, **attributes):
        """A convolution over time of `x` [1, C, T]."""
        inputs = [x, weight] if bias is None else [x, weight, bias]
        return self.op("Conv", *inputs, kernel_shape=[weight.shape[-1]], **attributes)

    def transpose(self, x):
        """[1, T, C] <-> [1, C, T]"""
        return self.op("Transpose", x, perm=[0, 2, 1])

    def save(self, path, inputs, outputs):
        """Writes the graph. `inputs` and `outputs`: name -> shape; an output is (value, shape), renamed to its name."""
        for name, (value, _) in outputs.items():
            for node in self.nodes:
                node.input[:] = [name if i == value else i for i in node.input]
                node.output[:] = [name if o == value else o for o in node.output]
        info = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        graph = helper.make_graph(
            self.nodes, path.stem, [info(*pair) for pair in inputs.items()],
            [info(name, shape) for name, (_, shape) in outputs.items()], self.initializers,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="bellis")
        onnx.checker.check_model(model)
        path.write_bytes(model.SerializeToString(deterministic=True))
