// A congestion control whose window is WINDOW_PACKETS whatever happens, under the name RULE: both are defined by
// tests/interfaces/congestion.rs, which compiles and registers it.
#include <linux/types.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define QUOTED(word) #word
#define STRING(word) QUOTED(word)

// Of the kernel's types what is used here: the loader finds the members by their names in /sys/kernel/btf/vmlinux.
struct sock {
} __attribute__((preserve_access_index));

struct tcp_sock {
    __u32 snd_cwnd;
} __attribute__((preserve_access_index));

struct tcp_congestion_ops {
    __u32 (*ssthresh)(struct sock *sk);
    void (*cong_avoid)(struct sock *sk, __u32 ack, __u32 acked);
    __u32 (*undo_cwnd)(struct sock *sk);
    char name[16];
};

SEC("struct_ops/after_loss")
__u32 BPF_PROG(after_loss, struct sock *sk)
{
    return WINDOW_PACKETS;
}

SEC("struct_ops/acknowledged")
void BPF_PROG(acknowledged, struct sock *sk, __u32 ack, __u32 acked)
{
    // The verifier knows that the socket of such an operation is TCP's.
    ((struct tcp_sock *)sk)->snd_cwnd = WINDOW_PACKETS;
}

SEC("struct_ops/after_false_loss")
__u32 BPF_PROG(after_false_loss, struct sock *sk)
{
    return WINDOW_PACKETS;
}

// Those three are what the kernel demands of one (tcp_validate_congestion_control). The section without ".link": it stays
// until it is unregistered, whoever registered it.
SEC(".struct_ops")
struct tcp_congestion_ops RULE = {
    .ssthresh = (void *)after_loss,
    .cong_avoid = (void *)acknowledged,
    .undo_cwnd = (void *)after_false_loss,
    .name = STRING(RULE),
};

// The kernel takes struct_ops under a licence only that goes with the GPL (EINVAL).
char licence[] SEC("license") = "Dual MIT/GPL";
