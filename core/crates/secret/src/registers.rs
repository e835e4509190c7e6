//! Vector registers hold round keys while AES instructions run, and keep them until something else is loaded.

use std::arch::asm;

/// A routine that zeroes every vector register that the calling convention lets a callee change.
pub(crate) type Clear = unsafe extern "C" fn();

/// The widest routine that this processor needs.
#[cfg(target_arch = "x86_64")]
pub(crate) fn clear() -> Clear {
    if std::arch::is_x86_feature_detected!("avx512f") {
        clear_zmm
    } else if std::arch::is_x86_feature_detected!("avx") {
        clear_ymm
    } else {
        clear_xmm
    }
}

#[cfg(target_arch = "x86_64")]
unsafe extern "C" fn clear_zmm() {
    // SAFETY: called only where AVX-512F was found; every vector register is caller-saved here. `vzeroall` zeroes the
    // whole of 0 to 15 and leaves the upper halves marked clean, so that SSE code after it runs at full speed.
    unsafe {
        asm!(
            "vzeroall",
            "vpxorq zmm16, zmm16, zmm16",
            "vpxorq zmm17, zmm17, zmm17",
            "vpxorq zmm18, zmm18, zmm18",
            "vpxorq zmm19, zmm19, zmm19",
            "vpxorq zmm20, zmm20, zmm20",
            "vpxorq zmm21, zmm21, zmm21",
            "vpxorq zmm22, zmm22, zmm22",
            "vpxorq zmm23, zmm23, zmm23",
            "vpxorq zmm24, zmm24, zmm24",
            "vpxorq zmm25, zmm25, zmm25",
            "vpxorq zmm26, zmm26, zmm26",
            "vpxorq zmm27, zmm27, zmm27",
            "vpxorq zmm28, zmm28, zmm28",
            "vpxorq zmm29, zmm29, zmm29",
            "vpxorq zmm30, zmm30, zmm30",
            "vpxorq zmm31, zmm31, zmm31",
            clobber_abi("C"),
            options(nostack),
        );
    }
}

#[cfg(target_arch = "x86_64")]
unsafe extern "C" fn clear_ymm() {
    // SAFETY: called only where AVX was found; every vector register is caller-saved in this convention.
    unsafe { asm!("vzeroall", clobber_abi("C"), options(nostack)) };
}

#[cfg(target_arch = "x86_64")]
unsafe extern "C" fn clear_xmm() {
    // SAFETY: SSE2 is part of x86-64; every vector register is caller-saved in this convention.
    unsafe {
        asm!(
            "pxor xmm0, xmm0",
            "pxor xmm1, xmm1",
            "pxor xmm2, xmm2",
            "pxor xmm3, xmm3",
            "pxor xmm4, xmm4",
            "pxor xmm5, xmm5",
            "pxor xmm6, xmm6",
            "pxor xmm7, xmm7",
            "pxor xmm8, xmm8",
            "pxor xmm9, xmm9",
            "pxor xmm10, xmm10",
            "pxor xmm11, xmm11",
            "pxor xmm12, xmm12",
            "pxor xmm13, xmm13",
            "pxor xmm14, xmm14",
            "pxor xmm15, xmm15",
            clobber_abi("C"),
            options(nostack),
        );
    }
}

#[cfg(target_arch = "aarch64")]
pub(crate) fn clear() -> Clear {
    clear_v
}

#[cfg(target_arch = "aarch64")]
unsafe extern "C" fn clear_v() {
    // SAFETY: of v8 to v15 the lower halves belong to the caller, and AWS-LC has restored them; the rest is ours.
    unsafe {
        asm!(
            "movi v0.2d, #0",
            "movi v1.2d, #0",
            "movi v2.2d, #0",
            "movi v3.2d, #0",
            "movi v4.2d, #0",
            "movi v5.2d, #0",
            "movi v6.2d, #0",
            "movi v7.2d, #0",
            "mov v8.d[1], xzr",
            "mov v9.d[1], xzr",
            "mov v10.d[1], xzr",
            "mov v11.d[1], xzr",
            "mov v12.d[1], xzr",
            "mov v13.d[1], xzr",
            "mov v14.d[1], xzr",
            "mov v15.d[1], xzr",
            "movi v16.2d, #0",
            "movi v17.2d, #0",
            "movi v18.2d, #0",
            "movi v19.2d, #0",
            "movi v20.2d, #0",
            "movi v21.2d, #0",
            "movi v22.2d, #0",
            "movi v23.2d, #0",
            "movi v24.2d, #0",
            "movi v25.2d, #0",
            "movi v26.2d, #0",
            "movi v27.2d, #0",
            "movi v28.2d, #0",
            "movi v29.2d, #0",
            "movi v30.2d, #0",
            "movi v31.2d, #0",
            clobber_abi("C"),
            options(nostack),
        );
    }
}

/// Run `function(argument)` on the stack that ends at `top`, then `clear`, and come back.
///
/// # Safety
/// `top` is a multiple of 16 and ends a stack that nothing else uses meanwhile; `function` does not unwind.
#[cfg(target_arch = "x86_64")]
pub(crate) unsafe fn call_on_stack(
    top: *mut u8,
    function: unsafe extern "C" fn(*mut u8),
    argument: *mut u8,
    clear: Clear,
) {
    // SAFETY: r12 and r13 survive both calls, as the convention promises; everything else that a call may change is
    // declared. Nothing of the old stack is touched in between.
    unsafe {
        asm!(
            "mov r12, rsp",
            "mov rsp, rsi",
            "call rdx",
            "call r13",
            "mov rsp, r12",
            inout("rdi") argument => _,
            inout("rsi") top => _,
            inout("rdx") function => _,
            inout("r13") clear => _,
            out("r12") _,
            clobber_abi("C"),
        );
    }
}

/// As above.
///
/// # Safety
/// As above.
#[cfg(target_arch = "aarch64")]
pub(crate) unsafe fn call_on_stack(
    top: *mut u8,
    function: unsafe extern "C" fn(*mut u8),
    argument: *mut u8,
    clear: Clear,
) {
    // SAFETY: x20 and x21 survive both calls, as the convention promises; everything else is declared.
    unsafe {
        asm!(
            "mov x20, sp",
            "mov sp, x1",
            "blr x2",
            "blr x21",
            "mov sp, x20",
            inout("x0") argument => _,
            inout("x1") top => _,
            inout("x2") function => _,
            inout("x21") clear => _,
            out("x20") _,
            clobber_abi("C"),
        );
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("ebscrypt keeps ciphers on stacks in secret memory: the switch is written for x86-64 and aarch64");

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    /// After the routine that this processor gets, no vector register holds what was put there before.
    #[test]
    fn clear_leaves_no_vector_register() {
        let secret = [0x5A_u8; 64];
        let mut found = [0xFF_u8; 64 * 4];
        let wide = std::arch::is_x86_feature_detected!("avx512f");
        // SAFETY: loads and stores stay inside the arrays, each instruction set is used only where it was found, and
        // the addresses are in registers that a call keeps.
        unsafe {
            if wide {
                asm!(
                    "vmovdqu64 zmm0, [r12]", "vmovdqu64 zmm15, [r12]", "vmovdqu64 zmm16, [r12]", "vmovdqu64 zmm31, [r12]",
                    "call r14",
                    "vmovdqu64 [r13], zmm0", "vmovdqu64 [r13 + 64], zmm15",
                    "vmovdqu64 [r13 + 128], zmm16", "vmovdqu64 [r13 + 192], zmm31",
                    in("r12") secret.as_ptr(), in("r13") found.as_mut_ptr(), in("r14") clear(), clobber_abi("C"),
                );
            } else {
                asm!(
                    "movdqu xmm0, [r12]", "movdqu xmm15, [r12]",
                    "call r14",
                    "movdqu [r13], xmm0", "movdqu [r13 + 64], xmm15",
                    in("r12") secret.as_ptr(), in("r13") found.as_mut_ptr(), in("r14") clear(), clobber_abi("C"),
                );
            }
        }
        let (registers, width) = if wide { (4, 64) } else { (2, 16) };
        for register in found.chunks(64).take(registers) {
            assert!(register[..width].iter().all(|byte| *byte == 0));
        }
    }
}
