#!/usr/bin/env bash
# To be sourced: `source launch/xla_flags.sh tpu` (or gpu) sets the recommended flags of the compiler
# for every program that starts afterwards. Flags that the environment holds already come last, and
# so they win. A flag stands here only if it is known to help and is not the default of these versions;
# tests/launch/test_xla_flags.py checks the latter.
case $1 in
  tpu)
    # There are none for libtpu 0.0.42 (flags would go to LIBTPU_INIT_ARGS). What was tried, by
    # compiling:
    # - xla_tpu_enable_latency_hiding_scheduler and xla_tpu_enable_async_collective_fusion, which
    #   others set, are the defaults: the program stays the same.
    # - xla_enable_async_all_reduce, xla_tpu_enable_async_collective_fusion_fuse_all_reduce and
    #   xla_jf_crs_combiner_threshold_in_bytes, only together, sum gradients during the backward pass
    #   of a plain stack of layers; in the one-stream step (S, 2 blocks, v5e:4x4) the sums stay behind
    #   it, at 16 MiB as at 1 MiB, and the predicted cycles grow by 1 %.
    ;;
  gpu)
    recommended=(
      # By default the GPUs wait while gradients are summed. With this flag they compute something
      # else meanwhile. NVIDIA sets it in its images; it has not been measured here.
      --xla_gpu_enable_latency_hiding_scheduler=true
    )
    export XLA_FLAGS="${recommended[*]} ${XLA_FLAGS:-}"
    # JAX takes 75 % of the memory by default. A process that has its GPU to itself can take more.
    export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.9}
    ;;
  *)
    echo "error: There are recommendations for tpu and gpu, none for '$1'." >&2
    return 1
    ;;
esac
