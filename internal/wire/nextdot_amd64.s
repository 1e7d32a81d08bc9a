//go:build gc && !purego

#include "textflag.h"

// func nextDot(buf []byte, i int) int
// SSE2, which every amd64 has. 32 octets at a time: those before each in X0 and
// X2, compared with LF; they in X1 and X3, compared with a dot.
TEXT ·nextDot(SB), NOSPLIT, $0-40
	MOVQ buf_base+0(FP), SI
	MOVQ buf_len+8(FP), CX
	MOVQ i+24(FP), AX
	MOVQ $0x0A0A0A0A0A0A0A0A, DX
	MOVQ DX, X4
	PUNPCKLQDQ X4, X4
	MOVQ $0x2E2E2E2E2E2E2E2E, DX
	MOVQ DX, X5
	PUNPCKLQDQ X5, X5
	LEAQ -32(CX), DI
	JMP  more

many:
	MOVOU -1(SI)(AX*1), X0
	MOVOU (SI)(AX*1), X1
	MOVOU 15(SI)(AX*1), X2
	MOVOU 16(SI)(AX*1), X3
	PCMPEQB X4, X0
	PCMPEQB X5, X1
	PCMPEQB X4, X2
	PCMPEQB X5, X3
	PAND X1, X0
	PAND X3, X2
	POR  X0, X2
	PMOVMSKB X2, DX
	TESTL DX, DX
	JNE  found
	ADDQ $32, AX

more:
	CMPQ AX, DI
	JLE  many
	JMP  rest

one:
	CMPB (SI)(AX*1), $0x2E
	JNE  next
	CMPB -1(SI)(AX*1), $0x0A
	JEQ  done

next:
	INCQ AX

rest:
	CMPQ AX, CX
	JLT  one

done:
	MOVQ AX, ret+32(FP)
	RET

found:
	PMOVMSKB X0, BX // if this is 0, DX is of X2 alone
	SHLL $16, DX
	ORL  BX, DX
	BSFL DX, DX
	ADDQ DX, AX
	JMP  done
