#include "data/document_table.h"

#include "support/catch.h"
#include "support/gzip.h"
#include "token_fixtures.h"

using namespace olmoe;
using test::message_of;
using test::TokenFolder;
using test::write_gzip;

namespace {

std::string table_message(const std::string& token_path) {
  return message_of<DataError>([&] { tokens_in_table(token_path); });
}

}  // namespace

TEST_CASE("the document table of a token file is beside it, with its name") {
  CHECK(table_path("tokens/part-0-00000.npy") == "tokens/part-0-00000.csv.gz");
  CHECK(table_path("/a.b/c") == "/a.b/c.csv.gz");
  TokenFolder folder;
  CHECK_FALSE(tokens_in_table(folder.path("a.npy")));
}

TEST_CASE("the number of tokens in a document table is the end of its last document") {
  TokenFolder folder;
  const auto count = [&](const std::string& rows) {
    write_gzip(folder.path("a.csv.gz"), rows);
    return tokens_in_table(folder.path("a.npy"));
  };
  // The bytes of dolma's writer, with quotes, commas and a doubled quote inside fields.
  CHECK(count("0,4,\"doc,1\",\"s3://b/\"\"x\"\".json.gz\",7\r\n4,6,d2,f,8\r\n") == 6);
  CHECK(count("0,9,a,f,1\r\n9,40,\"two\nlines,1,2\n3,4,\",f,2\n") == 40);
  CHECK(count("0,12,a,f,1") == 12);      // no end of line
  CHECK(count("0,12,a,f,1\n\n") == 12);  // an empty line
  CHECK(count("0,3000000000,a") == 3000000000);

  std::string rows;  // more than one chunk
  for (int64_t i = 0; i < 100000; ++i) rows += fmt::format("{},{},id-{},f,1\r\n", i, i + 1, i);
  CHECK(count(rows) == 100000);
}

TEST_CASE("an error names a document table that cannot be read") {
  TokenFolder folder;
  const auto tokens = folder.path("a.npy"), table = folder.path("a.csv.gz");
  const std::string advice = "; tokenize again, or move it away if " + tokens + " is right";
  const std::string columns = table + ": is not a document table with rows of start,end,id,source,line" + advice;
  for (const std::string rows :
       {"", "start,end,id\n0,4,a\n", "0,x,a\n", "0\n", "0,,a\n", "0,4,\"a\n", "0,1234567890123456789,a\n"}) {
    INFO(rows);
    write_gzip(table, rows);
    CHECK(table_message(tokens) == columns);
  }
  std::string rows;
  for (int64_t i = 0; i < 1000; ++i) rows += fmt::format("{},{},{},f,1\n", i, i + 1, i * i);
  write_gzip(table, rows);
  std::filesystem::resize_file(table, std::filesystem::file_size(table) - 9);
  CHECK(table_message(tokens) == table + ": the document table is damaged or cut short" + advice);
}
