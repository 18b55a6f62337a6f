// A guest in C without a C library: the interfaces of wasi:http 0.2 called by
// hand, as the Canonical ABI lays them out. Every result that does not fit one
// value is written to memory: its case in the first byte, what it carries after.

#include <stddef.h>
#include <stdint.h>

#define HTTP "wasi:http/types@0.2.10"
#define IO "wasi:io/streams@0.2.10"
#define FROM(module, name) __attribute__((import_module(module), import_name(name)))
#define EXPORT(name) __attribute__((export_name(name)))

typedef int32_t handle;

typedef struct {
  const char *bytes;
  size_t length;
} text;

#define TEXT(literal) ((text){literal, sizeof(literal) - 1})

// result<own<..>>, and result<_, ..> read as far as its first case
typedef struct {
  uint8_t failed;
  handle value;
} result;

// variant method
typedef struct {
  uint8_t name;
  text other;
} method;
enum { GET = 0, HEAD = 1, POST = 2 };

// option<string>
typedef struct {
  uint8_t given;
  text value;
} maybe_text;

// result<list<u8>, stream-error>
typedef struct {
  uint8_t failed;
  text block;
} block;

// list<list<u8>>
typedef struct {
  const text *values;
  size_t length;
} values;

FROM(HTTP, "[method]incoming-request.method") void request_method(handle, method *);
FROM(HTTP, "[method]incoming-request.path-with-query") void request_path(handle, maybe_text *);
FROM(HTTP, "[method]incoming-request.headers") handle request_headers(handle);
FROM(HTTP, "[method]incoming-request.consume") void request_consume(handle, result *);
FROM(HTTP, "[resource-drop]incoming-request") void request_drop(handle);
FROM(HTTP, "[method]incoming-body.stream") void incoming_stream(handle, result *);
FROM(HTTP, "[resource-drop]incoming-body") void incoming_drop(handle);
FROM(HTTP, "[constructor]fields") handle fields_new(void);
FROM(HTTP, "[method]fields.get") void fields_get(handle, const char *, size_t, values *);
FROM(HTTP, "[method]fields.append")
void fields_append(handle, const char *, size_t, const char *, size_t, uint8_t[2]);
FROM(HTTP, "[resource-drop]fields") void fields_drop(handle);
FROM(HTTP, "[constructor]outgoing-response") handle response_new(handle);
FROM(HTTP, "[method]outgoing-response.set-status-code") int32_t response_status(handle, int32_t);
FROM(HTTP, "[method]outgoing-response.body") void response_body(handle, result *);
FROM(HTTP, "[method]outgoing-body.write") void outgoing_write(handle, result *);
// result<_, error-code>: 8-aligned, for some codes carry a u64
FROM(HTTP, "[static]outgoing-body.finish")
void outgoing_finish(handle, int32_t has_trailers, handle trailers, uint64_t[5]);
// result<own<outgoing-response>, error-code>, flattened: the case, the handle,
// and the places that an error code would take
FROM(HTTP, "[static]response-outparam.set")
void outparam_set(handle, int32_t, handle, int32_t, int64_t, int32_t, int32_t, int32_t, int32_t);
FROM(IO, "[method]input-stream.blocking-read") void stream_read(handle, uint64_t, block *);
FROM(IO, "[resource-drop]input-stream") void input_drop(handle);
FROM(IO, "[method]output-stream.blocking-write-and-flush")
void stream_write(handle, const char *, size_t, uint32_t[3]);
FROM(IO, "[resource-drop]output-stream") void output_drop(handle);

// What the host hands over lies here until the next thing that is longer than
// a call has been read.
static _Alignas(8) uint8_t arena[128 << 10];
static size_t taken;

EXPORT("cabi_realloc")
void *cabi_realloc(void *old, size_t old_size, size_t align, size_t size) {
  size_t start = (taken + align - 1) & ~(align - 1);
  if (start + size > sizeof arena) __builtin_trap();
  taken = start + size;
  const uint8_t *from = old;
  for (size_t i = 0; i < old_size && i < size; i++) arena[start + i] = from[i];
  return arena + start;
}

static int same(text a, text b) {
  if (a.length != b.length) return 0;
  for (size_t i = 0; i < a.length; i++)
    if (a.bytes[i] != b.bytes[i]) return 0;
  return 1;
}

// The body's two handles; both are 0 if the answer is only a head.
typedef struct {
  handle body, stream;
} answer;

static answer begin(handle out, int32_t status, text type) {
  handle headers = fields_new();
  uint8_t refused[2];
  text name = TEXT("content-type");
  if (type.length > 0)
    fields_append(headers, name.bytes, name.length, type.bytes, type.length, refused);
  handle response = response_new(headers);
  response_status(response, status);
  result body, stream;
  response_body(response, &body);
  outparam_set(out, 0, response, 0, 0, 0, 0, 0, 0);
  outgoing_write(body.value, &stream);
  return (answer){body.value, stream.value};
}

// The host takes 4096 bytes at once; 0 if nobody wants more.
static int put(answer to, text data) {
  while (data.length > 0) {
    size_t part = data.length < 4096 ? data.length : 4096;
    uint32_t done[3] = {0};
    stream_write(to.stream, data.bytes, part, done);
    if (done[0] & 0xff) return 0;
    data.bytes += part;
    data.length -= part;
  }
  return 1;
}

static void end(answer of) {
  uint64_t done[5];
  output_drop(of.stream);
  outgoing_finish(of.body, 0, 0, done);
}

static void say(handle out, int32_t status, text what) {
  answer to = begin(out, status, TEXT("text/plain"));
  put(to, what);
  end(to);
}

static void lines(handle out) {
  answer to = begin(out, 200, TEXT("text/plain"));
  char line[] = "line 01\n";
  for (int number = 1; number <= 16; number++) {
    size_t length = 5;
    if (number > 9) line[length++] = '0' + number / 10;
    line[length++] = '0' + number % 10;
    line[length++] = '\n';
    if (!put(to, (text){line, length})) break;
  }
  end(to);
}

static void echo(handle request, handle out) {
  handle headers = request_headers(request);
  text name = TEXT("content-type");
  values types;
  fields_get(headers, name.bytes, name.length, &types);
  fields_drop(headers);
  answer to = begin(out, 200, types.length > 0 ? types.values[0] : TEXT(""));
  result body, stream;
  request_consume(request, &body);
  incoming_stream(body.value, &stream);
  for (;;) {
    taken = 0;
    block read;
    stream_read(stream.value, 64 << 10, &read);
    if (read.failed || !put(to, read.block)) break;
  }
  input_drop(stream.value);
  incoming_drop(body.value);
  end(to);
}

EXPORT("wasi:http/incoming-handler@0.2.10#handle")
void handle_request(handle request, handle out) {
  taken = 0;
  method asked;
  maybe_text path;
  request_method(request, &asked);
  request_path(request, &path);
  if (same(path.value, TEXT("/")) && (asked.name == GET || asked.name == HEAD))
    say(out, 200, TEXT("hello from c\n"));
  else if (same(path.value, TEXT("/echo")) && asked.name == POST)
    echo(request, out);
  else if (same(path.value, TEXT("/stream")) && asked.name == GET)
    lines(out);
  else
    say(out, 404, TEXT("no such path\n"));
  request_drop(request);
}
