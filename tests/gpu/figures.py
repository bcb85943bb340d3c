"""The figures of `make gpu` that have a name, and what some of them must be."""

from __future__ import annotations

from tests.benchmarks.figures import Figure, at_least, at_most

DSC = "mean DSC over the seeds, above float32's mean less twice the standard deviation of its seeds"

FIGURES = (
    Figure("tests_failed", "tests of kernels and of training on the GPU that failed", "tests", "", at_most(0)),
    Figure("tests_passed", "tests that passed", "tests", "", at_least(1)),
    Figure("ceiling_bf16_tflops", "bf16 matrix product", "TFLOP/s", ""),
    Figure("ceiling_copy_gbs", "copy, read plus written", "GB/s", ""),
    Figure("step_bfloat16_ms", "F-Net's training step, bfloat16", "ms", ""),
    Figure("step_share", "its arithmetic, of what the bf16 matrix product reaches", "%", "", at_least(40)),
    Figure("step_float16_ms", "the same, float16", "ms", ""),
    Figure("step_float32_ms", "the same, float32", "ms", ""),
    Figure("floor_ms", "floor of the bfloat16 step's stages", "ms", ""),
    Figure("gather_share", "cutting a minibatch, of a bfloat16 step", "%", "", at_most(2)),
    Figure("busy_resident", "GPU busy over 14 epochs of 15 steps, resident store", "%", "", at_least(95)),
    Figure("busy_streamed", "GPU busy over 14 epochs of 15 steps, streamed store", "%", "", at_least(95)),
    Figure("decoder_ratio_gpu", "sparse decoder over dense transposed convolution", "×", "", at_least(50)),
    Figure("decoder_over_torch", "sparse decoder's kernels over the same in torch", "×", ""),
    Figure("dsc_bfloat16_margin", f"bfloat16: {DSC}", "DSC", "", at_least(0)),
    Figure("dsc_float16_margin", f"float16: {DSC}", "DSC", "", at_least(0)),
)
