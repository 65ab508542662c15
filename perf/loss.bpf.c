// Drops packets at random where they come off the wire, and counts: the lab's loss. perf/lab compiles and attaches it.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

// A packet is dropped when a random 32-bit number is below this: probability × 2^32, so 64 bits for certainty.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} drop_below SEC(".maps");

// [0] packets seen, [1] of these dropped.
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 2);
    __type(key, __u32);
    __type(value, __u64);
} packet_counts SEC(".maps");

static __always_inline void count(__u32 which)
{
    __u64 *counter = bpf_map_lookup_elem(&packet_counts, &which);
    if (counter)
        ++*counter;
}

// "frags": without it the kernel attaches to no veth whose peer's MTU exceeds a page (EINVAL/ERANGE), as in jumbo.
SEC("xdp.frags")
int loss(struct xdp_md *context)
{
    __u32 first = 0;
    __u64 *below = bpf_map_lookup_elem(&drop_below, &first);

    count(0);
    if (!below || bpf_get_prandom_u32() >= *below)
        return XDP_PASS;
    count(1);
    return XDP_DROP;
}

// bpf_map_lookup_elem and bpf_get_prandom_u32 are open to every licence; the kernel asks for the line all the same.
char licence[] SEC("license") = "Dual MIT/GPL";
