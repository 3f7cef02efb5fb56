// Files that are not token ids, and ids of another width than data.dtype.
#include "data/foreign_format.h"

#include "core/random.h"
#include "data/id_width.h"
#include "data/token_files.h"
#include "support/catch.h"
#include "support/gzip.h"
#include "token_fixtures.h"

using namespace olmoe;
using namespace std::string_literals;
using test::counting;
using test::message_of;
using test::TokenFolder;

namespace {

constexpr int64_t kVocabSize = 50304;

std::string refusal_of(const std::string& path, TokenDtype dtype = TokenDtype::uint16,
                       int64_t vocab_size = kVocabSize) {
  return message_of<DataError>([&] { TokenDataset({path}, dtype, 4, vocab_size); });
}

std::string whole_refusal_of(const std::string& path, TokenDtype dtype = TokenDtype::uint16) {
  return message_of<DataError>([&] { TokenDataset({path}, dtype, 4, kVocabSize).read_all(); });
}

/// Ids distributed like a tokenizer's: small ones are common. All below `vocab_size`.
template <class Id>
std::vector<Id> natural(int64_t count, int64_t vocab_size, uint64_t seed = 1) {
  const RandomStream random(seed, "natural ids");
  std::vector<Id> ids;
  for (int64_t i = 0; i < count; ++i) {
    const double u = random.uniform(static_cast<uint64_t>(i));
    ids.push_back(static_cast<Id>(u * u * u * static_cast<double>(vocab_size)));
  }
  return ids;
}

const std::string kText =
    "Every document of this corpus is \xc3\xa4n example.\n\tNothing in it is a token id, and yet "
    "it would train: its bytes "
    "are taken two by two, and each pair is an id below the size of the vocabulary.\n";

}  // namespace

TEST_CASE("files of other formats are refused, with the name of the format") {
  TokenFolder folder;
  const std::pair<std::string, std::string> formats[] = {
      {"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "Git LFS pointer"},
      {"/annex/objects/MD5E-s1--0.npy\n", "git-annex pointer"},
      {"\x1f\x8b\x08\0\0\0"s, "gzip"},
      {"\x28\xb5\x2f\xfd\0\0"s, "Zstandard"},
      {"\xfd"
       "7zXZ\0\0\0"s,
       "xz file"},
      {"BZh91AY&SY", "bzip2"},
      {"PK\x03\x04\0\0"s, "zip archive"},
      {"PAR1\x15\x04"s, "Parquet"},
      {"ARROW1\0\0"s, "Arrow"},
      {"\x89HDF\r\n\x1a\n"s, "HDF5"},
      {"MMIDIDX\0\0\x01"s, "Megatron"},
      {"\x93NUMPY\x01\0"s, "NumPy array with a header"},
      {kText, "is text"},
      {kText.substr(0, kText.find('\xa4')) + std::string(80, 'x'), ""},  // the end of a character is missing
  };
  for (const auto& [bytes, words] : formats) {
    INFO(words);
    const auto path = folder.add("tokens.npy", bytes);
    const auto message = message_of<DataError>([&] { TokenFile(path, TokenDtype::uint16, 0); });
    if (words.empty()) {
      CHECK(message == "");
    } else {
      CHECK(message.starts_with(path + ": is "));
      CHECK(message.find(words) != std::string::npos);
    }
  }
}

TEST_CASE("ids are not taken for text, even in small files") {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const auto ids = natural<uint16_t>(64, kVocabSize, seed);
    CHECK(foreign_format(std::as_bytes(std::span(ids))).empty());
  }
  CHECK(foreign_format(std::as_bytes(std::span(kText))).starts_with("is text"));
  const std::string few = "the quick brown fox";  // too few bytes to recognize
  CHECK(foreign_format(std::as_bytes(std::span(few))).empty());
}

TEST_CASE("a wrong id width is detected in small and in large files") {
  TokenFolder folder;
  const int64_t count = GENERATE(64, 5000, 200'000);
  INFO(count << " ids");
  for (const int64_t vocab_size : {int64_t{257}, kVocabSize}) {
    const auto narrow = folder.write("u16.npy", natural<uint16_t>(count, vocab_size)),
               wide = folder.write("u32.npy", natural<uint32_t>(count, vocab_size)),
               widest = folder.write("i64.npy", natural<int64_t>(count, vocab_size));
    CHECK(refusal_of(narrow) == "");
    CHECK(refusal_of(wide, TokenDtype::uint32) == "");
    const std::string asked = "1 of 1 token files cannot be used:\n  ",
                      upper =
                          ": read as uint16, every second id is "
                          "the zero upper half of another; its ids are ";
    CHECK(refusal_of(wide) == asked + wide + upper + "4 bytes wide: set data.dtype: uint32");
    CHECK(refusal_of(widest) == asked + widest + upper + "8 bytes wide, which no data.dtype reads: tokenize again");
    CHECK(refusal_of(widest, TokenDtype::uint32).find("8 bytes wide") != std::string::npos);
    CHECK(refusal_of(narrow, TokenDtype::uint32).find("check data.dtype (uint32)") != std::string::npos);
  }
  // Vocabularies of more than 65,536 ids fill some upper halves.
  const auto large = folder.write("large.npy", natural<uint32_t>(count, 256'000));
  CHECK(refusal_of(large, TokenDtype::uint32, 256'000) == "");
  CHECK(refusal_of(large).find("4 bytes wide") != std::string::npos);
}

TEST_CASE("ids with regular patterns are accepted") {
  TokenFolder folder;
  std::vector<uint16_t> few, pairs, zeros(5000, 0);
  for (uint16_t i = 0; i < 5000; ++i) {
    few.push_back(i % 2);
    pairs.push_back(i % 2 == 0 ? 500 : 7);
  }
  for (const auto& ids : {few, pairs, zeros}) CHECK(refusal_of(folder.write("ids.npy", ids)) == "");
}

TEST_CASE("a document table with another number of tokens than the file is refused with the likely cause") {
  TokenFolder folder;
  const auto path = folder.path("a.npy"), table = folder.path("a.csv.gz");
  test::write_gzip(table, "0,20,a,f,1\n20,30,b,f,2\n");
  const auto refusal = [&](int64_t ids, const std::string& name, const std::string& advice) {
    return fmt::format(
        "1 of 1 token files cannot be used:\n  {}: has {} {} ids, but its table {} counts 30 "
        "tokens: {}",
        path, ids, name, table, advice);
  };
  folder.write("a.npy", counting(30));
  CHECK(whole_refusal_of(path) == "");
  CHECK(whole_refusal_of(path, TokenDtype::uint32).find("outside the vocabulary") != std::string::npos);

  folder.write("a.npy", std::vector<uint32_t>(30, 5));  // the sample is too short to detect the width
  CHECK(whole_refusal_of(path, TokenDtype::uint32) == "");
  CHECK(whole_refusal_of(path) == refusal(60, "uint16", "its ids are 4 bytes wide: set data.dtype: uint32"));
  folder.write("a.npy", std::vector<int64_t>(30, 5));
  CHECK(whole_refusal_of(path) ==
        refusal(120, "uint16", "its ids are 8 bytes wide, which no data.dtype reads: tokenize again"));
  folder.write("a.npy", std::vector<uint16_t>(30, 0));
  CHECK(whole_refusal_of(path, TokenDtype::uint32) ==
        refusal(15, "uint32", "its ids are 2 bytes wide: set data.dtype: uint16"));

  folder.write("a.npy", counting(29));
  CHECK(whole_refusal_of(path) == refusal(29, "uint16", "the file is cut short, or the table is of another file"));
  folder.write("a.npy", counting(31));
  CHECK(whole_refusal_of(path) ==
        refusal(31, "uint16", "the table is cut short or of another file, or its writer was interrupted"));
}
