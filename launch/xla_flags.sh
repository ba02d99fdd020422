#!/usr/bin/env bash
# Sourced: `source launch/xla_flags.sh tpu` (or gpu) recommends settings of the compiler to what is
# started after it. What the environment holds already comes last, and so wins.
case $1 in
  tpu)
    recommended=(
    )
    export LIBTPU_INIT_ARGS="${recommended[*]} ${LIBTPU_INIT_ARGS:-}"
    ;;
  gpu)
    recommended=(
      # Sums gradients over the GPUs while the rest of the backward pass is still computed.
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
