#!/usr/bin/env bash
# Sourced: `source launch/xla_flags.sh tpu` (or gpu) sets what is recommended to the compiler for what
# is started after it. What the environment holds already comes last, and so wins. Only what is not
# the default of these versions, and is known to help, is here; see tests/test_xla_flags.py.
case $1 in
  tpu)
    # None, for libtpu 0.0.42 (flags would go to LIBTPU_INIT_ARGS). Tried, by compiling:
    # - xla_tpu_enable_latency_hiding_scheduler and xla_tpu_enable_async_collective_fusion, which
    #   others set: the defaults, the same program comes out.
    # - xla_enable_async_all_reduce, xla_tpu_enable_async_collective_fusion_fuse_all_reduce and
    #   xla_jf_crs_combiner_threshold_in_bytes, only together, sum gradients during the backward pass
    #   of a plain stack of layers; in the one-stream step (S, 2 blocks, v5e:4x4) the sums stay behind
    #   it, at 16 MiB as at 1 MiB, and the predicted cycles grow by 1 %.
    ;;
  gpu)
    recommended=(
      # Moves the summing of gradients over the GPUs, which by default is waited for, to where
      # something is left to compute beside it. NVIDIA sets it in its images; not yet measured here.
      --xla_gpu_enable_latency_hiding_scheduler=true
    )
    export XLA_FLAGS="${recommended[*]} ${XLA_FLAGS:-}"
    # JAX takes 75 % of the memory by default; a process that has its GPU to itself can have more.
    export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.9}
    ;;
  *)
    echo "error: There are recommendations for tpu and gpu, none for '$1'." >&2
    return 1
    ;;
esac
