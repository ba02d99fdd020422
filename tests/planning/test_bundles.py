"""Bundles of kernels and fusions: how often each is issued, and which slots they fill."""

import os

import jax
import pytest

from panoptic_jax.planning import bundles

# A loop of 5 trips, of which 2 only fetch and store, around one of 4; two bundles after a branch
# still belong to its loop, and empty bundles to the loop around them.
BUNDLES = """\
= control target key start
LB: loop body
= control target key end

     0   :  { %s1 = smov 0 }
   0x1 LB: > { %s2 = sadd.s32 1, %s3 /* iteration index, stage = 1 */  ;;  %s3 = sphi %s1 /* iteration index, stage = 0 */ }
   0x2   :  {}
   0x3 LB: >> { %v1 = vld [vmem:[%s2]]  ;;  %p1 = scmp.ge.s32.totalorder %s4_s5, 4 /* loop exit test */ }
   0x4   : > { %5 = sbr.rel (!%p1) target = $region1 }
   0x5   : >> { %v2 = vst [vmem:[#allocation1_spill]] %v1 }
   0x6   :  {}
   0x7 PF: > { %p2 = scmp.ge.s32.totalorder %s2, 5 /* loop exit test */ }
   0x8   :  { %6 = sbr.rel (!%p2) target = $region2 }
"""  # noqa: E501 - the compiler's lines
OUTER, INNER = 3, 3 * 4

USES = """\
== CAPACTIY:
MXU, VALU, VSTORE, VSTORE:SPILL
    4     2     1     1
== UTILIZATION:
0 0 0 0
1 1 0 0
0 0 0 0
4 2 0 0
0 0 1 0
0 2 1 1
4 0 0 0
0 0 1 0
0 1 0 0
"""


def test_bundles_count_as_often_as_their_loops_run():
    schedule = bundles.read(BUNDLES, USES)
    # 0 and 8 once; 1, 2, 4 and 7 in the outer loop; 3, 5 and 6 in the inner one.
    assert schedule.cycles == 2 + 4 * OUTER + 3 * INNER


def test_units_are_busy_as_long_as_their_slots_take():
    schedule = bundles.read(BUNDLES, USES)
    assert schedule.busy == {
        'MXU': pytest.approx((OUTER + 8 * INNER) / 4),
        'VALU': pytest.approx((OUTER + 4 * INNER + 1) / 2),
        'VSTORE': 2 * OUTER + INNER,
    }
    assert schedule.spills == pytest.approx(INNER / (2 * OUTER + INNER))


def test_loops_that_follow_each_other_have_their_own_trips():
    lines = BUNDLES.replace('   0x7 PF', '   0x9 LB: >> { %p3 = scmp.ge.s32.totalorder %s7, 7'
                            ' /* loop exit test */ }\n   0xa   : > {  }\n   0x7 PF')  # fmt: skip
    rows = USES.splitlines()
    rows[11:11] = ['0 0 0 0', '0 0 0 0']
    schedule = bundles.read(lines, '\n'.join(rows))
    assert schedule.cycles == 2 + 5 * OUTER + 3 * INNER + 7 * OUTER


# Within the inner loop, what is done in the outer loop's first trip alone, and around a loop of its
# own; the branch's target is where the region of its number begins.
FIRST_TRIP = """\
     0   :  {}
   0x1 LB: > { %s3_s1 = sphi 0 /* iteration index, stage = 0 */  ;;  %p5 = scmp.ne.s32.totalorder (%p4), %s3_s1, 0 }
   0x2 LB: >> { %p1 = scmp.ge.s32.totalorder %s4_s5, 4 /* loop exit test */ }
   0x3   : >> { %7 = sbr.rel (%p5) target = $region12 }
   0x4   : >> { %v1 = vld [vmem:[%s2]] /* Start region 1 */ }
   0x5   :  {}
   0x6 LB: >>> { %p2 = scmp.ge.s32.totalorder %s7, 7 /* loop exit test */ }
   0x7   : >> { %v1 = vld [vmem:[%s2]] /* End region 11 */ }
   0x8 PF: >> { %v2 = vst [vmem:[%s2]] %v1 /* Start/End empty region 12 */ }
   0x9   : > { %p3 = scmp.ge.s32.totalorder %s3_s1, 6 /* loop exit test */ }
"""  # noqa: E501 - the compiler's lines
USES_OF_FIRST_TRIP = USES[: USES.index('0 0 0 0')] + 10 * '0 0 0 0\n'


def test_what_is_for_one_trip_of_a_loop_is_counted_once():
    # 5 trips of the outer loop, in each of which the inner one makes 4.
    always = 1 + 2 * 5 + 3 * 4 * 5
    schedule = bundles.read(FIRST_TRIP, USES_OF_FIRST_TRIP)
    assert schedule.cycles == always + (3 + 7) * 4
    # A test that is another one, or of a number that no loop counts, may be met in every trip.
    for text in (
        FIRST_TRIP.replace('scmp.ne', 'scmp.lt'),
        FIRST_TRIP.replace('%s3_s1, 0 }', '%s9_s9, 0 }'),
        FIRST_TRIP.replace('%s3_s1, 0 }', '%s3_s1, %s8 }'),
    ):
        assert bundles.read(text, USES_OF_FIRST_TRIP).cycles == always + (3 + 7) * 4 * 5


def test_loops_that_run_as_data_say_are_not_counted():
    unknown = BUNDLES.replace('%s4_s5, 4 /*', '%s4_s5, %s9 /*')
    assert bundles.read(unknown, USES) is None


def test_texts_of_different_instructions_are_refused():
    with pytest.raises(ValueError, match='argument'):
        bundles.read(BUNDLES, USES + '0 0 0 0\n')


def test_files_are_read_once(tmp_path):
    for name in ('fusion.1', 'jvp_attention_.1'):
        start = tmp_path / f'17-{name}-0'
        (start.parent / f'{start.name}1-final_hlo-static-per-bundle-utilization.txt').write_text(
            USES
        )
        (start.parent / f'{start.name}2-schedule-analysis_final_bundles.txt').write_text('other')
        (start.parent / f'{start.name}3-final_bundles.txt').write_text(BUNDLES)
    found = bundles.schedules(tmp_path)
    assert found == dict.fromkeys(['fusion.1', 'jvp_attention_.1'], bundles.read(BUNDLES, USES))
    assert bundles.schedules(tmp_path) == {}


@pytest.mark.parametrize('before', [None, '--xla_tpu_other=1'])
def test_the_compiler_is_asked_as_long_as_the_folder_is_there(monkeypatch, before):
    name = 'LIBTPU_INIT_ARGS'
    monkeypatch.delenv(name, raising=False)
    if before:
        monkeypatch.setenv(name, before)
    with bundles.written() as folder:
        assert folder.is_dir()
        assert f'--xla_jf_dump_to={folder}' in os.environ[name].split()
        assert not before or before in os.environ[name].split()
        assert not jax.config.jax_enable_compilation_cache
    assert jax.config.jax_enable_compilation_cache
    assert not folder.exists()
    assert os.environ.get(name) == before
