"""What machine_code.py makes of machine code: small kernels of the right shape, and one property spoilt at a time."""
import re
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import machine_code  # noqa: E402
import sass  # noqa: E402


def printed(*lines):
    """As cuobjdump prints a kernel: an address for each instruction; a name in front of ':' marks one to branch to."""
    marked = [re.match(r"(?:(\w+): )?(.*)", line).groups() for line in lines]
    text = "\t\tFunction : _Z8multiplyv\n"
    for i, (_, body) in enumerate(marked):
        for at, (mark, _) in enumerate(marked):
            body = body.replace(f"<{mark}>", f"0x{16 * at:x}")
        text += f"        /*{16 * i:04x}*/                   {body} ;    /* 0x000000000000794d */\n"
        text += "                                            /* 0x000fea0003800000 */\n"
    return sass.read(text)["_Z8multiplyv"]


SLOTS = [f"LDG.E R{40 + i}, desc[UR20][R{20 + 2 * i}.64]" for i in range(8)]
COPIES = [f"@P0 LDGSTS.E.BYPASS.LTC128B.128 [R13+0x{0x400 * i:x}], desc[UR20][R{60 + 2 * i}.64]" for i in range(8)]
LOADING = ["load: SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR29+0x34820], R2", "BSSY B0, <there>", "@P1 BRA <there>",
           "UTMALDG.3D [UR8], [UR26], desc[UR30]", "there: BSYNC B0", *SLOTS, *COPIES, "IMAD.MOV.U32 R47, RZ, RZ, R40",
           "@!P0 BRA <load>"]
MULTIPLYING = ["multiply: SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR29], R2",
               *["HGMMA.64x256x16.F32.BF16 R24, gdesc[UR16], R24"] * 4, "WARPGROUP.DEPBAR.LE gsb0, 0x1",
               "@P0 BRA <multiply>"]
EPILOGUE = ["WARPGROUP.DEPBAR.LE gsb0, 0x0", "LDG.E R2, desc[UR20][R4.64]", "REDG.E.ADD.F32.FTZ.RN.STRONG.GPU [R2], R24"]
TILES = ["tile: HGMMA.64x256x16.F32.BF16 R24, gdesc[UR16], RZ, !UPT", *MULTIPLYING, *EPILOGUE, "@P2 BRA <tile>", "EXIT"]


def kernel(loading=LOADING, tiles=TILES):
    return printed(*tiles, *loading, "EXIT")


def replaced(lines, old, *new):
    assert old in lines
    return [out for line in lines for out in (new if line == old else [line])]


class MachineCode(unittest.TestCase):
    def lost(self, code, name="WeightGrad<false>", spilled=0):
        return [(name, value) for name, value, _, holds in machine_code.properties(name, code, spilled) if not holds]

    def test_a_kernel_as_designed(self):
        self.assertEqual(self.lost(kernel()), [])
        self.assertEqual(self.lost(kernel(replaced(LOADING, SLOTS[0]), TILES), "UpProjection"), [])

    def test_rows_that_are_looked_up_one_after_the_other(self):
        one_by_one = replaced(LOADING, SLOTS[1], "IMAD.HI.U32 R50, R40, R36, RZ", SLOTS[1])
        self.assertEqual(self.lost(kernel(one_by_one)), [("loading: rows looked up before the first is used", 1)])
        branched = replaced(LOADING, SLOTS[3], "BSSY B1, <there>", SLOTS[3], "BSYNC B1")
        self.assertEqual(self.lost(kernel(branched)), [("loading: branches that rejoin (the leader's)", 2)])

    def test_a_copy_that_is_missing_and_a_loop_that_grew(self):
        self.assertEqual(self.lost(kernel(replaced(LOADING, COPIES[7]))), [("loading: copies of 16 bytes a k-tile", 7)])
        long = replaced(LOADING, COPIES[0], COPIES[0], *["VIADD R1, R1, 0x1"] * 240)
        self.assertEqual(self.lost(kernel(long)), [("loading: instructions a k-tile", len(LOADING) + 240)])

    def test_products(self):
        def tiles(old, *new):
            return kernel(tiles=replaced(TILES, old, *new))

        wait = "WARPGROUP.DEPBAR.LE gsb0, 0x1"
        self.assertEqual(self.lost(tiles(wait, "WARPGROUP.DEPBAR.LE gsb0, 0x0")),
                         [("multiplying: waits, with one batch left in flight", 1)])
        self.assertEqual(self.lost(tiles(wait, wait, "LDL.LU R1, [R1+0x4]")), [("multiplying: local loads and stores", 1)])
        self.assertEqual(self.lost(tiles(wait, wait, "HGMMA.64x256x16.F32.BF16 R24, gdesc[UR16], R24")),
                         [("multiplying: HGMMA a k-tile", 5)])

    def test_epilogues(self):
        def epilogue(*more):
            return kernel(tiles=replaced(TILES, EPILOGUE[2], *more, EPILOGUE[2]))

        self.assertEqual(self.lost(epilogue("CALL.REL.NOINC 0x1234")), [("calls", 1)])
        self.assertEqual(self.lost(epilogue("F2F.BF16.F32 R1, R2")), [("conversions one at a time (F2F)", 1)])
        self.assertEqual(self.lost(epilogue("LDG.E.64 R2, desc[UR20][R4.64]")), [("epilogue: loads of the sum", 1)])
        self.assertEqual(self.lost(epilogue(*["FADD R1, R1, R2"] * 1200)),
                         [("epilogue: instructions a tile", 1200 + len(TILES) - len(MULTIPLYING) - 1)])
        self.assertEqual(self.lost(kernel(), spilled=8), [("spilled bytes", 8)])

    def test_code_without_the_loops_is_no_kernel_as_designed(self):
        self.assertEqual(self.lost(printed("EXIT")), [("loops that load, multiply and take tiles", "not found")])


if __name__ == "__main__":
    unittest.main()
