from ..state.vcpu cimport Vcpu
