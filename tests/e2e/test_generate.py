"""olmoe-generate on a tiny trained run: ids and bytes, cache and none, alone and among others, stops, refusals."""
import json
import subprocess
import unittest

from support import PROGRAM, ProgramTest

GENERATE, CHECKPOINT = PROGRAM.parent / "olmoe-generate", PROGRAM.parent / "olmoe-checkpoint"
CONFIG, UNREADABLE = 2, 4
PROMPTS = ("1,2,3", "9", "5,6,7,8,9,10,11,12,13,14")  # of a context of 16


class GenerateTest(ProgramTest):
    overrides = ()

    def setUp(self):
        super().setUp()
        self.assertTrue(GENERATE.is_file(), f"no program {GENERATE}: build it")
        self.train("run", "train.steps=3", *self.overrides)

    def run_program(self, *arguments, code=0, text="", program=GENERATE):
        done = subprocess.run([program, *map(str, arguments)], cwd=self.folder, input=text.encode(), capture_output=True)
        self.assertEqual(done.returncode, code, done.stdout.decode() + done.stderr.decode())
        return done.stdout.decode(), done.stderr.decode()

    def generated(self, *arguments):
        """The new ids of each prompt, by --json."""
        return [text["ids"] for text in json.loads(self.run_program("run", "--json", *arguments)[0])["texts"]]

    def refused(self, said, *arguments, code=CONFIG):
        self.assertIn(said, self.run_program(*arguments, code=code)[1])


class GenerateIds(GenerateTest):
    def test_texts_are_the_same_with_and_without_a_cache_alone_and_of_an_export(self):
        greedy = ("--max-tokens", 6, "--dtype", "float64")
        together = self.generated(*greedy, "--ids", *PROMPTS)
        self.assertEqual([len(ids) for ids in together], [6, 6, 6])
        self.assertEqual(self.generated(*greedy, "--no-cache", "--ids", *PROMPTS), together)
        for prompt, ids in zip(PROMPTS, together):
            self.assertEqual(self.generated(*greedy, "--ids", prompt), [ids])
        self.run_program("export", "run", "hf", program=CHECKPOINT)
        exported = json.loads(self.run_program("hf", "--json", *greedy, "--ids", *PROMPTS)[0])["texts"]
        self.assertEqual([text["ids"] for text in exported], together)
        self.assertEqual([text["prompt_ids"] for text in exported], [list(map(int, p.split(","))) for p in PROMPTS])

    def test_samples_are_reproducible_by_seed(self):
        sampled = ("--ids", *PROMPTS[:2], "--temperature", 1.5, "--max-tokens", 12)
        first = self.generated(*sampled, "--seed", 3)
        self.assertEqual(self.generated(*sampled, "--seed", 3), first)
        self.assertNotEqual(self.generated(*sampled, "--seed", 4), first)

    def test_ids_are_printed_in_order_and_end_at_stop_ids_and_the_context(self):
        ids, = self.generated("--ids", "1,2,3", "--max-tokens", 40)
        self.assertEqual(len(ids), 13)  # to the context
        out, err = self.run_program("run", "--ids", "1,2,3", "--max-tokens", 40)
        self.assertEqual(list(map(int, out.split())), ids)
        self.assertIn("ended at the model's context", err)
        self.assertIn("13 tokens after 3", err)
        stopped, = self.generated("--ids", "1,2,3", "--max-tokens", 40, "--stop", f"{ids[2]}")
        self.assertEqual(stopped, ids[:ids.index(ids[2]) + 1])
        several, _ = self.run_program("run", "--ids", "1,2,3", "4", "--max-tokens", 2)
        self.assertEqual([line.split()[0] for line in several.splitlines()], ["[1]", "[2]"])

    def test_what_is_refused(self):
        ids = ("run", "--ids")
        self.refused("prompt 1 has 17 tokens, more than the model's context of 16", *ids, ",".join(["1"] * 17))
        self.refused("prompt 1 has the id 64", *ids, "64")
        self.refused("--ids: '1,,2'", *ids, "1,,2")
        self.refused("--stop: 64 is not an id", *ids, "1", "--stop", "64")
        self.refused("--stop: 'x'", *ids, "1", "--stop", "x")
        self.refused("set --temperature", *ids, "1", "--top-k", 3)
        self.refused("--top-p: 2", *ids, "1", "--temperature", 1, "--top-p", 2)
        self.refused("--max-tokens: 0", *ids, "1", "--max-tokens", 0)
        self.refused("--prompt and --ids, or --interactive", "run")
        self.refused("--prompt and --ids, or --interactive", *ids, "1", "--interactive")
        self.refused("--tokenizer: a text as prompt needs", "run", "--prompt", "a")
        self.refused("ids up to 256, and the model a vocabulary of 64", "run", "--prompt", "a", "--tokenizer", "bytes")
        self.refused("absent.json: no such file", "run", "--prompt", "a", "--tokenizer", "absent.json")
        self.refused("there is no folder none", "none", "--ids", "1", code=UNREADABLE)

    def test_experts_that_choose_their_tokens_cannot_generate(self):
        self.train("choice", "train.steps=1", "model.routing=expert_choice", "model.load_balancing_weight=0")
        self.refused("model.routing: expert_choice", "choice", "--ids", "1")


class GenerateText(GenerateTest):
    overrides = ("model.vocab_size=264", "data.sequence_length=64")

    def test_text_is_continued_streamed_and_replaced_where_it_is_no_utf8(self):
        text = json.loads(self.run_program("run", "--json", "--tokenizer", "bytes", "--prompt", "h\u00e9",
                                           "--max-tokens", 20, "--stop", "none")[0])["texts"][0]
        self.assertEqual(text["prompt_ids"], [0x68, 0xc3, 0xa9])
        self.assertEqual(len(text["ids"]), 20)
        out, err = self.run_program("run", "--tokenizer", "bytes", "--prompt", "h\u00e9", "--max-tokens", 20, "--stop", "none")
        self.assertEqual(out, "h\u00e9" + text["text"] + "\n")
        self.assertIn("20 tokens after 3", err)

    def test_each_line_of_an_interactive_run_is_a_prompt(self):
        options = ("run", "--tokenizer", "bytes", "--max-tokens", 8, "--temperature", 1, "--seed", 5, "--json")
        out, err = self.run_program(*options, "--interactive", text="one\n\n" + "x" * 65 + "\ntwo\n")
        answers = [json.loads(line)["texts"][0] for line in out.splitlines()]
        self.assertEqual([bytes(answer["prompt_ids"]).decode() for answer in answers], ["one", "two"])
        self.assertIn("prompt 2 has 65 tokens", err)
        alone, _ = self.run_program(*options, "--prompt", "one")
        self.assertEqual(json.loads(alone)["texts"][0]["ids"], answers[0]["ids"])


if __name__ == "__main__":
    unittest.main()
