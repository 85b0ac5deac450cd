/*
 * A FIDO token in software, as a middleware of OpenSSH's: `ssh-keygen -t ed25519-sk -w token.so` makes a key whose secret half lies in the key's
 * handle, and signs with it what a real token signs. Nobody has to touch it: it says that somebody did, where that was asked for, and that nobody did,
 * where the key was made with `-O no-touch-required`. For tests; it protects nothing.
 *
 * The interface is that of OpenSSH's sk-api.h (its version is given by the compiler's command line); what is signed is PROTOCOL.u2f's:
 * SHA256(application), flags, counter, SHA256(message). libcrypto is there already: the helper that loads this is linked with it, so its functions are
 * declared here and found then.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct evp_pkey_st EVP_PKEY;
typedef struct evp_md_ctx_st EVP_MD_CTX;
EVP_PKEY *EVP_PKEY_new_raw_private_key(int type, void *engine, const unsigned char *key, size_t length);
int EVP_PKEY_get_raw_public_key(const EVP_PKEY *pair, unsigned char *key, size_t *length);
void EVP_PKEY_free(EVP_PKEY *pair);
EVP_MD_CTX *EVP_MD_CTX_new(void);
void EVP_MD_CTX_free(EVP_MD_CTX *context);
int EVP_DigestSignInit(EVP_MD_CTX *context, void *method, const void *digest, void *engine, EVP_PKEY *pair);
int EVP_DigestSign(EVP_MD_CTX *context, unsigned char *signature, size_t *length, const unsigned char *bytes, size_t count);
unsigned char *SHA256(const unsigned char *bytes, size_t count, unsigned char *digest);
int RAND_bytes(unsigned char *bytes, int count);

enum { ED25519 = 1, NID_ED25519 = 1087, FAILED = -1, UNSUPPORTED = -2, TOUCH = 1, SEED = 32, POINT = 32, SIGNATURE = 64 };

struct enrolled {
    uint8_t flags;
    uint8_t *public_key;
    size_t public_key_len;
    uint8_t *key_handle;
    size_t key_handle_len;
    uint8_t *signature;
    size_t signature_len;
    uint8_t *attestation_cert;
    size_t attestation_cert_len;
    uint8_t *authdata;
    size_t authdata_len;
};

struct signed_by {
    uint8_t flags;
    uint32_t counter;
    uint8_t *sig_r;
    size_t sig_r_len;
    uint8_t *sig_s;
    size_t sig_s_len;
};

uint32_t sk_api_version(void) { return API; }

int sk_enroll(uint32_t alg, const uint8_t *challenge, size_t challenge_len, const char *application, uint8_t flags, const char *pin, void **options,
              struct enrolled **answer)
{
    (void)challenge, (void)challenge_len, (void)application, (void)pin, (void)options;
    if (alg != ED25519)
        return UNSUPPORTED;
    struct enrolled *made = calloc(1, sizeof *made);
    uint8_t *seed = calloc(1, SEED), *point = calloc(1, POINT), *nothing = calloc(1, 1);
    size_t length = POINT;
    if (!made || !seed || !point || !nothing || RAND_bytes(seed, SEED) != 1)
        return FAILED;
    EVP_PKEY *pair = EVP_PKEY_new_raw_private_key(NID_ED25519, NULL, seed, SEED);
    if (!pair || EVP_PKEY_get_raw_public_key(pair, point, &length) != 1)
        return FAILED;
    EVP_PKEY_free(pair);
    *made = (struct enrolled){.flags = flags, .public_key = point, .public_key_len = POINT, .key_handle = seed, .key_handle_len = SEED,
                              .signature = nothing};
    *answer = made;
    return 0;
}

int sk_sign(uint32_t alg, const uint8_t *data, size_t data_len, const char *application, const uint8_t *key_handle, size_t key_handle_len,
            uint8_t flags, const char *pin, void **options, struct signed_by **answer)
{
    (void)pin, (void)options;
    if (alg != ED25519 || key_handle_len != SEED)
        return UNSUPPORTED;
    const uint32_t counter = 41;
    uint8_t bytes[32 + 1 + 4 + 32];
    SHA256((const unsigned char *)application, strlen(application), bytes);
    bytes[32] = flags & TOUCH;
    bytes[33] = 0, bytes[34] = 0, bytes[35] = 0, bytes[36] = (uint8_t)counter;
    SHA256(data, data_len, bytes + 37);
    struct signed_by *made = calloc(1, sizeof *made);
    uint8_t *signature = calloc(1, SIGNATURE);
    size_t length = SIGNATURE;
    EVP_PKEY *pair = EVP_PKEY_new_raw_private_key(NID_ED25519, NULL, key_handle, SEED);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    if (!made || !signature || !pair || !context || EVP_DigestSignInit(context, NULL, NULL, NULL, pair) != 1 ||
        EVP_DigestSign(context, signature, &length, bytes, sizeof bytes) != 1)
        return FAILED;
    EVP_MD_CTX_free(context);
    EVP_PKEY_free(pair);
    *made = (struct signed_by){.flags = bytes[32], .counter = counter, .sig_r = signature, .sig_r_len = length};
    *answer = made;
    return 0;
}

int sk_load_resident_keys(const char *pin, void **options, void ***keys, size_t *count)
{
    (void)pin, (void)options, (void)keys, (void)count;
    return UNSUPPORTED;
}
