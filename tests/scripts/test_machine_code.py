"""What machine_code.py makes of machine code: small kernels of the right shape, and one property spoilt at a time."""
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))
import sass  # noqa: E402
from machine_code import properties_of  # noqa: E402
from machine_code_rules import RULES, Compiled  # noqa: E402


def printed(lines, function="_Z8multiplyv"):
    """As cuobjdump prints a kernel: an address for each instruction; a name in front of ':' marks one to branch to."""
    marked = [re.match(r"(?:(\w+): )?(.*)", line).groups() for line in lines]
    text = f"\t\tFunction : {function}\n"
    for i, (_, body) in enumerate(marked):
        for at, (mark, _) in enumerate(marked):
            body = body.replace(f"<{mark}>", f"0x{16 * at:x}")
        text += f"        /*{16 * i:04x}*/                   {body} ;    /* 0x000000000000794d */\n"
        text += "                                            /* 0x000fea0003800000 */\n"
    return text


def code_of(*lines):
    return sass.read(printed(lines))["_Z8multiplyv"]


START_SLOTS = [f"LDG.E R{80 + i}, desc[UR20][R{20 + 2 * i}.64]" for i in range(8)]
SLOTS = [f"LDG.E R{40 + i}, desc[UR20][R{20 + 2 * i}.64]" for i in range(8)]
COPIES = [f"@P0 LDGSTS.E.BYPASS.LTC128B.128 [R13+0x{0x400 * i:x}], desc[UR20][R{60 + 2 * i}.64]" for i in range(8)]
LOADING = ["load: SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR29+0x34820], R2", "@!P0 BRA <wait>",
           "loaded: BSSY B0, <there>", "@P1 BRA <there>",
           "elect: UTMALDG.3D [UR8], [UR26], desc[UR30]", "@P0 BRA.U.ANY <elect>", "there: BSYNC B0",
           *SLOTS, *COPIES, "IMAD.MOV.U32 R47, RZ, RZ, R40", "@!P0 BRA <load>"]
WAIT = ["wait: SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR29+0x34820], R2", "@!P0 BRA <wait>", "BRA <loaded>"]
LOADING_TILES = ["USETMAXREG.DEALLOC.CTAPOOL 0x38", "tile: IMAD R1, R1, R1, R1", *START_SLOTS, "VIADD R3, R80, 0x1",
                 *LOADING, "@P3 BRA <tile>", "EXIT", *WAIT]
PRODUCT = "HGMMA.64x256x16.F32.BF16 R24, gdesc[UR16], R24"
BATCH = "WARPGROUP.DEPBAR.LE gsb0, 0x1"
STORE = "REDG.E.ADD.F32.FTZ.RN.STRONG.GPU [R2], R24"
MULTIPLYING = ["multiply: SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR12+0x34800], R5", "@P0 BRA <full>",
               "SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR12+0x34800], R5", "full: WARPGROUP.ARRIVE", *[PRODUCT] * 4, BATCH,
               "SYNCS.ARRIVE.TRANS64.RED.A1T0 RZ, [UR12], RZ", "@P0 BRA <multiply>"]
MULTIPLYING_TILES = ["loads: USETMAXREG.TRY_ALLOC.CTAPOOL UP0, 0xe0", "product: LDG.E R2, desc[UR20][R4.64]",
                     "HGMMA.64x256x16.F32.BF16 R24, gdesc[UR16], RZ, !UPT", *MULTIPLYING,
                     "WARPGROUP.DEPBAR.LE gsb0, 0x0", STORE, "@P2 BRA <product>", "EXIT"]
PLAIN = ["loop: LDG.E R2, desc[UR20][R4.64]", "@P0 BRA <loop>", "EXIT"]
NAMES = {"kernels/hopper/up_projection": "multiply<UpProjection>", "kernels/hopper/down_backward": "multiply<DownBackward>",
         "kernels/hopper/weight_grads": "multiply<WeightGrad<false>>"}
EMPTY = {name: rules for name, rules in RULES["bench/experts_ablation"].items() if "WithoutEpilogue" in name}


def kernel(loading=LOADING_TILES, multiplying=MULTIPLYING_TILES):
    return code_of("@P0 BRA <loads>", *loading, *multiplying)


def replaced(lines, old, *new):
    """`lines` with `new` in place of the first `old`."""
    at = lines.index(old)
    return [*lines[:at], *new, *lines[at + 1:]]


KEPT = "@P5 STG.E desc[UR4][R2.64], R24"
EMPTY_TILES = replaced(MULTIPLYING_TILES, STORE, *[KEPT] * 128)


def brief(instruction):
    """Without its address, and that which it branches to."""
    return re.sub(r"^/\*\w+\*/ |(?<=BRA) .*", "", instruction)


class FusedKernels(unittest.TestCase):
    def lost(self, code, source="kernels/hopper/weight_grads", registers=168, spilled=0, log="", name=""):
        name = name or NAMES[source]
        found = properties_of(name, Compiled(code, registers, spilled, log), RULES[source][name], is_fused=True)
        return [(each.name, each.value, brief(each.first)) for each in found if not each.holds]

    def loses(self, name, value, first, loading=LOADING_TILES, multiplying=MULTIPLYING_TILES):
        """Of such a kernel that property alone is lost, and that instruction is named."""
        self.assertEqual(self.lost(kernel(loading, multiplying)), [(name, value, brief(first))])

    def test_kernels_as_designed(self):
        for source in NAMES:
            self.assertEqual(self.lost(kernel(), source), [])

    def test_code_without_the_loops(self):
        self.assertEqual(self.lost(code_of("EXIT")), [("structure", "not found: a loop with LDGSTS", "")])
        one_tile = kernel(multiplying=replaced(MULTIPLYING_TILES, "@P2 BRA <product>"))
        self.assertEqual(self.lost(one_tile), [("structure", "not found: a loop with HGMMA around another", "")])

    def test_rows_looked_up_one_after_the_other(self):
        for when, slots in ("tile's start", START_SLOTS), ("loading", SLOTS):
            register = re.search(r"R\d+", slots[0])[0]
            name = f"{when}: rows looked up before the first is used"
            for use in f"IMAD.HI.U32 R50, {register}, R36, RZ", f"STG.E desc[UR4][R6.64], {register}":
                self.loses(name, 7, slots[0], loading=replaced(LOADING_TILES, slots[1], use, *slots[1:2]))
            parted = replaced(LOADING_TILES, slots[2], "@P1 BRA <rest>", f"rest: {slots[2]}")
            self.loses(name, 6, slots[0], loading=parted)

    def test_branches_that_are_not_the_leaders(self):
        self.loses("loading: branches but the leader's", 1, "@P6 BRA", loading=replaced(
            LOADING_TILES, COPIES[0], "@P6 BRA <piece>", "VIADD R1, R1, 0x1", f"piece: {COPIES[0]}"))

    def test_a_copy_that_is_missing_and_a_loop_that_grew(self):
        self.loses("loading: copies of 16 bytes a k-tile", 7, COPIES[0], loading=replaced(LOADING_TILES, COPIES[7]))
        grown = replaced(LOADING_TILES, COPIES[0], COPIES[0], *["VIADD R1, R1, 0x1"] * 230)
        self.loses("loading: instructions a k-tile", 230 + len(LOADING), LOADING[0].split(": ")[1], loading=grown)

    def test_products(self):
        def products(old, *new):
            return replaced(MULTIPLYING_TILES, old, *new)

        name = "multiplying: products of 64x256x16 a k-tile"
        self.loses(name, 3, PRODUCT, multiplying=products(PRODUCT))
        self.loses(name, 5, PRODUCT, multiplying=products(PRODUCT, PRODUCT, PRODUCT))
        small = PRODUCT.replace("256x16", "128x16")
        self.loses("multiplying: other products", 1, small, multiplying=products(PRODUCT, PRODUCT, small))
        self.loses("multiplying: instructions a k-tile", 60 + len(MULTIPLYING), MULTIPLYING[0].split(": ")[1],
                   multiplying=products(PRODUCT, PRODUCT, *["VIADD R1, R1, 0x1"] * 60))
        log = "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to X"
        self.assertEqual(self.lost(kernel(), log=log), [("losses that ptxas tells of", 1, log)])

    def test_waits(self):
        def waits(*new, old=BATCH):
            return replaced(MULTIPLYING_TILES, old, *new)

        name = "multiplying: waits for products (all but one batch)"
        none_left = BATCH.replace("0x1", "0x0")
        self.loses(name, "LE gsb0, 0x0", none_left, multiplying=waits(none_left))
        self.loses(name, "LE gsb0, 0x1, LE gsb0, 0x1", BATCH, multiplying=waits(BATCH, BATCH))
        self.loses(name, "", "", multiplying=waits())
        told = "SYNCS.ARRIVE.TRANS64.RED.A1T0 RZ, [UR12], RZ"
        asked = MULTIPLYING[0].split(": ")[1]
        self.loses("multiplying: barriers waited for and told", "1 and 2", asked, multiplying=waits(told, told, old=told))
        self.loses("multiplying: barriers waited for and told", "2 and 1", asked,
                   multiplying=waits(told, asked.replace("UR12", "UR13"), old=told))

    def test_epilogues(self):
        def epilogue(*more):
            return replaced(MULTIPLYING_TILES, STORE, *more, STORE)

        load = "LDG.E.64 R2, desc[UR20][R4.64]"
        self.loses("epilogue: loads of the sum", 1, load, multiplying=epilogue(load))
        self.loses("epilogue: instructions a tile", 543, "WARPGROUP.DEPBAR.LE gsb0, 0x0",
                   multiplying=epilogue(*["FADD R1, R1, R2"] * 540))
        self.loses("epilogue: local loads and stores", 1, "LDL.LU R1, [R1+0x4]", multiplying=epilogue("LDL.LU R1, [R1+0x4]"))
        self.loses("calls", 1, "CALL.REL.NOINC 0x1234", multiplying=epilogue("CALL.REL.NOINC 0x1234"))
        self.loses("conversions one at a time (F2F)", 1, "F2F.BF16.F32 R1, R2", multiplying=epilogue("F2F.BF16.F32 R1, R2"))
        for exact in "FCHK P0, R1, R2", "VIADD R1, R2, 0x1800000", "IADD3 R1, R2, 0x1800000, RZ":
            self.loses("exact divisions", 1, exact, multiplying=epilogue(exact))

    def test_one_of_two_ways_is_counted(self):
        either = ["@P4 BRA <adds>", *["STG.E desc[UR4][R2.64], R24"] * 300, "BRA <next>",
                  "adds: NOP", *["REDG.E.ADD [R2], R24"] * 400, "next: NOP"]
        self.assertEqual(self.lost(kernel(multiplying=replaced(MULTIPLYING_TILES, STORE, *either))), [])

    def test_registers(self):
        self.assertEqual(self.lost(kernel(), registers=160),
                         [("registers: at launch, loading, multiplying", [160, 56, 224], "USETMAXREG.DEALLOC.CTAPOOL 0x38")])
        self.assertEqual(self.lost(kernel(), spilled=8), [("spilled bytes", 8, "")])
        self.assertEqual(self.lost(kernel(), "kernels/hopper/down_backward", spilled=41), [("spilled bytes", 41, "")])

    def test_ablations_multiply_as_much_as_the_kernels_that_they_are_of(self):
        self.assertEqual(len(EMPTY), 4)
        fewer = replaced(EMPTY_TILES, PRODUCT)
        emptied = [line for line in EMPTY_TILES if line not in (PRODUCT, KEPT)]
        for name, multiplying, lost in (
                ("as designed", EMPTY_TILES, []),
                ("a product is left out", fewer, [("multiplying: products of 64x256x16 a k-tile", 3, PRODUCT)]),
                ("a value is left out", replaced(EMPTY_TILES, KEPT), [("epilogue: stores, for which products are kept", 127, KEPT)]),
                ("none is kept", emptied, [("structure", "not found: a loop with HGMMA around another", "")]),
                ("something is made of them", replaced(EMPTY_TILES, KEPT, *["FADD R1, R1, R2"] * 200, KEPT),
                 [("epilogue: instructions a tile", 330, "WARPGROUP.DEPBAR.LE gsb0, 0x0")])):
            for kernel_name in EMPTY:
                with self.subTest(name, kernel=kernel_name):
                    code = kernel(multiplying=multiplying)
                    self.assertEqual(self.lost(code, "bench/experts_ablation", name=kernel_name), lost)
        for source, name in NAMES.items():  # less to do by other operands
            self.assertEqual(RULES["bench/experts_ablation"][name], RULES[source][name])

    def test_local_memory_in_the_multiplying_loop(self):
        self.loses("multiplying: local loads and stores", 1, "STL [R1], R2",
                   multiplying=replaced(MULTIPLYING_TILES, BATCH, BATCH, "STL [R1], R2"))


class Reader(unittest.TestCase):
    def test_loops_that_lie_out_of_line(self):
        code = code_of("head: NOP", "@!P0 BRA <retry>", "back: FADD R1, R1, R1", "@P1 BRA <head>", "EXIT",
                       "retry: NOP", "@!P0 BRA <retry>", "BRA <back>")
        inner, outer = code.loops
        self.assertEqual(([i.name for i in inner.instructions()], len(outer.instructions())), (["NOP", "BRA"], 7))
        self.assertEqual((outer.longest_way(), outer.without(inner).longest_way()), (7, 4))

    def test_what_is_not_reached_is_in_no_block(self):
        code = code_of("@P0 EXIT", "BRA.DIV UR4, <parted>", "CALL.REL.NOINC <routine>", "EXIT", "routine: RET.REL.NODEC R1 0x0",
                       "parted: SHFL.IDX PT, R2, R2, RZ, 0x1f", "BRA <parted>")
        self.assertEqual([i.name for block in code.order for i in code.blocks[block]], ["EXIT", "BRA", "CALL", "EXIT"])

    def test_a_computed_branch_is_refused(self):
        with self.assertRaisesRegex(ValueError, "computed"):
            code_of("BRX R2 -0x10", "EXIT")


def mangled(name):
    """Of a function template of no arguments."""
    known = {"c10::BFloat16": "N3c108BFloat16E", "float": "f", "true": "Lb1E", "false": "Lb0E"}

    def encoded(word):
        return known.get(word) or (f"Li{word}E" if word.isdigit() else f"{len(word)}{word}")

    words = re.findall(r"[\w:]+|[<>]", name)
    return "_Z" + "".join({"<": "I", ">": "E"}.get(word) or encoded(word) for word in words) + "vv"


class Program(unittest.TestCase):
    """The program, with a disassembler that prints what a test put into the object."""

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.root = Path(temporary.name)
        self.tools = self.root / "tools"
        self.tools.mkdir()
        for tool in "cuobjdump", "nvdisasm":
            (self.tools / tool).write_text('#!/bin/sh\ncat "$4"\n')
            (self.tools / tool).chmod(0o755)
        self.build("now", PLAIN)

    def build(self, folder, plain):
        fused = ["@P0 BRA <loads>", *LOADING_TILES]
        for source, names in RULES.items():
            path = self.root / folder / f"CMakeFiles/some.dir/{source}.cu.o"
            log = self.root / folder / "ptxas" / path.name.removesuffix(".cu.o")
            path.parent.mkdir(parents=True, exist_ok=True)
            log.parent.mkdir(exist_ok=True)
            path.write_text("".join(printed(fused + EMPTY_TILES if name in EMPTY else fused + MULTIPLYING_TILES
                                            if name.startswith("multiply<") else plain, mangled(name)) for name in names))
            log.write_text("".join(
                f"ptxas info    : Compiling entry function '{mangled(name)}' for '{architecture}'\n"
                "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
                f"ptxas info    : Used {registers} registers\n"
                for name in names for architecture, registers in (("sm_90a", 168), ("sm_100a", 40))))
        (self.root / folder / "CMakeCache.txt").write_text("# options\nOLMOE_BENCH:BOOL=ON\n")

    def run_it(self, *more):
        done = subprocess.run([sys.executable, SCRIPTS / "machine_code.py", self.tools, self.root / "now", *more],
                              capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr.strip()

    def test_what_is_as_designed(self):
        code, table, said = self.run_it()
        self.assertEqual((code, said), (0, ""))
        self.assertIn("| `multiply<WeightGrad<true>>` | loading: copies of 16 bytes a k-tile | 8 | 8 |", table)
        self.assertIn("| `combine<c10::BFloat16,8>` | instructions | 3 |  |", table)
        self.assertIn("| `combine<c10::BFloat16,8>` | registers | 168 |  |", table)

    def plain(self, name):
        """What is said to be lost of combine, and its row of that name in the table that compares with `before`."""
        code, table, said = self.run_it("--before", self.root / "before")
        start = "combine<c10::BFloat16,8>: "
        return (code, [line.removeprefix(start) for line in said.splitlines() if line.startswith(start)],
                next(row for row in table.splitlines() if row.startswith(f"| `{start[:-2]}` | {name} |")))

    def test_what_is_lost_is_named(self):
        for name, instruction in ("local loads and stores", "STL [R1+0x4], R2"), ("calls in loops", "CALL.REL.NOINC 0x10"):
            spoilt = [f"loop: {instruction}", *PLAIN[1:]]
            self.build("before", PLAIN)
            self.build("now", spoilt)
            code, lost, row = self.plain(name)
            self.assertEqual((code, lost), (1, [f"{name}: 1, wanted: 0; /*0000*/ {instruction}"]))
            self.assertTrue(row.endswith(f"| {name} | 0 | 1 | 0 |"), row)
            self.build("before", spoilt)
            self.build("now", PLAIN)
            code, lost, row = self.plain(name)
            self.assertEqual((code, lost), (0, []))
            self.assertTrue(row.endswith(f"| {name} | 1 (!) | 0 | 0 |"), row)

    def test_a_call_that_is_in_no_loop(self):
        self.build("now", [*PLAIN[:2], "CALL.ABS.NOINC R2", "EXIT"])
        self.assertEqual(self.run_it()[0], 0)

    def test_ablations_are_looked_at_where_benchmarks_are_built(self):
        named = "`multiply<WithoutEpilogue<UpProjection>> of bench/experts_ablation` | multiplying: products"
        self.assertIn(named, self.run_it()[1])
        (self.root / "now/CMakeFiles/some.dir/bench/experts_ablation.cu.o").unlink()
        self.assertIn("bench/experts_ablation.cu has not been compiled there", self.run_it()[2])
        (self.root / "now/CMakeCache.txt").write_text("# options\nOLMOE_BENCH:BOOL=OFF\n")
        code, table, said = self.run_it()
        self.assertEqual((code, named in table, said), (0, False, ""))

    def test_what_is_missing_is_an_error(self):
        self.assertIn("holds no objects that there are rules for", self.run_it("--before", self.root / "before")[2])
        folder = self.root / "now/CMakeFiles/some.dir/kernels"
        (folder / "permute.cu.o").write_text(printed(PLAIN, "_Z5otherv"))
        code, _, said = self.run_it()
        self.assertEqual((code, said), (1, "combine<c10::BFloat16,8>: kernel: not in kernels/permute.cu, wanted: to be there"))
        (folder / "permute.cu.o").write_text("")
        self.assertIn("permute.cu.o: cuobjdump prints no code for sm_90a", self.run_it()[2])
        (folder / "permute.cu.o").unlink()
        self.assertIn("kernels/permute.cu has not been compiled there", self.run_it()[2])
        for tool in "nvdisasm", "cuobjdump":
            (self.tools / tool).unlink()
            code, _, said = self.run_it()
            self.assertEqual((code, said), (1, f"{self.tools} holds no {tool}: scripts/install_disassembler.sh installs it"))


if __name__ == "__main__":
    unittest.main()
