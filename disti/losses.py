import torch
from torch.nn import functional as F
def kl(student, teacher, labels=None, mask=None, *, tau_teacher=1.0, tau_student=.05):
    m = mask if mask is not None else torch.ones_like(student, dtype=torch.bool)
    t=(teacher/tau_teacher).masked_fill(~m,-1e9); s=(student/tau_student).masked_fill(~m,-1e9)
    p=t.softmax(1); return (p*(t.log_softmax(1)-s.log_softmax(1))).masked_fill(~m,0).sum(1).mean()
def info_nce(student, teacher, labels, mask=None, *, tau=.05):
    m = mask if mask is not None else torch.ones_like(student, dtype=torch.bool)
    s=(student/tau).masked_fill(~m,-1e9); pos=labels>0; first=pos.float().argmax(1)
    other=pos.clone(); other[torch.arange(len(pos)),first]=False
    return F.cross_entropy(s.masked_fill(other,-1e9), first)
LOSSES={"kl":kl,"info_nce":info_nce}
def mix(student, teacher, labels, *, weights, options=None, mask=None):
    terms={n: LOSSES[n](student,teacher,labels,mask,**(options or {}).get(n,{})) for n in weights}
    return sum(weights[n]*v for n,v in terms.items()), terms
